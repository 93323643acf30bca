"""How do the tensors of a checkpoint get into a model, and what does the user hear when they do not fit?

`load` copies a file into a model tensor by tensor, all or nothing. What a user can get wrong (a path, a format, keys,
shapes, a head of another number of classes) is told apart here, because `load_state_dict` would answer all of it with
the same wall of text.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from snp.models.sources import torch_file
from snp.models.sources.prefixes import is_counter, without_prefix

SHOWN_KEYS = 3
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
# Where checkpoints keep the weights, outermost first. Running means of weights come before the weights themselves, as
# in timm: they are what such a training reports its scores of.
AVERAGED = ("state_dict_ema", "model_ema")
STATE_NAMES = (*AVERAGED, "state_dict", "model_state_dict", "model", "net", "state_dict")


def load(model: nn.Module, path: str | Path, num_classes: int) -> str:
    """Copy every tensor of a checkpoint into `model`, in place; return which of its entries, where there are averages.

    Args:
        model: the network; its state dict must have the keys and shapes of the file. Prefixes that all keys of the file
            share (`module.`, `model.`, ...) are taken off, and counters of batches may be missing, as torch allows.
        path: a safetensors file, or a file of `torch.save` (`.pth`, `.pt`, `.ckpt`, ...), which is read without running
            any code of it; `~` allowed.
        num_classes: classes of the data, to tell a wrong head from other wrong shapes.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        ValueError: the file is no checkpoint, holds the network more than once, or its keys, types, shapes or number of
            classes are not the model's.
    """
    expected = model.state_dict()
    tensors, entry = _read(Path(path).expanduser())
    tensors = without_prefix(path, tensors, expected)
    counters = {key: tensor for key, tensor in expected.items() if is_counter(key)}
    tensors = {**{key: tensor for key, tensor in counters.items() if key not in tensors}, **tensors}
    _check_keys(path, set(expected), set(tensors))
    _check_types(path, expected, tensors)
    _check_shapes(path, expected, tensors, num_classes)
    model.load_state_dict(tensors, strict=True)
    return entry


def _read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    if path.is_dir():
        files = sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)
        there = f"; in it there are {_first(files)}" if files else ""
        raise IsADirectoryError(
            f"model.checkpoint={path}: this is a folder, and the weights of this model are one file "
            f"({', '.join(SUFFIXES)}){there}. A folder of Hugging Face goes with model=huggingface"
        )
    if not path.is_file():
        raise FileNotFoundError(f"model.checkpoint={path}: there is no such file; give the path of a checkpoint")
    try:
        return load_file(path), ""
    except SafetensorError as error:
        with path.open("rb") as file:
            is_damaged = file.read(9)[8:] == b"{"  # a header's length, and a header
        if is_damaged:
            raise ValueError(
                f"model.checkpoint={path}: a safetensors file that is damaged or cut short ({error}); copy or fetch it "
                "again"
            ) from error
    try:
        content = torch_file.read(path)
    except ValueError as error:
        raise ValueError(f"model.checkpoint={path}: {error}") from error
    return _state_dict(path, content)


def _state_dict(path: Path, content: object) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict in what a file of `torch.save` holds, and its name if it is an average."""
    entry, found = "", content
    for name in STATE_NAMES:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found, entry = found[name], name if name in AVERAGED else entry
    named = found if isinstance(found, Mapping) else {}
    tensors = {str(key): value for key, value in named.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        what = f"its entries are {_first(list(map(str, content)))}" if isinstance(content, Mapping) and content else ""
        raise ValueError(
            f"model.checkpoint={path}: there is no state dict in this file ({what or type(content).__name__}); it is "
            f"looked for at the top and as {', '.join(sorted(set(STATE_NAMES)))}: write it to a file of its own with "
            "safetensors.torch.save_file"
        )
    return tensors, entry


def _check_keys(path: str | Path, expected: set[str], found: set[str]) -> None:
    differences = {"missing": sorted(expected - found), "unexpected": sorted(found - expected)}
    parts = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in differences.items() if keys]
    if parts:
        raise ValueError(
            f"model.checkpoint={path}: its keys are not those of this model: {', '.join(parts)}; "
            "choose the model the file was saved from"
        )


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")


def _check_types(path: str | Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """Precision may differ; what kind of number it is, and that there are numbers, may not."""
    hollow = [
        f"{key} is {tensor.layout if tensor.layout != torch.strided else 'on the meta device'}"
        for key, tensor in found.items()
        if tensor.layout != torch.strided or tensor.is_meta
    ]
    if hollow:
        raise ValueError(
            f"model.checkpoint={path}: tensors that are not written out number by number, {len(hollow)} in all: "
            f"{_first(hollow)}; save them as dense tensors with values (tensor.to_dense())"
        )
    wrong = [
        f"{key} is {found[key].dtype}, not {tensor.dtype}"
        for key, tensor in expected.items()
        if _kind(found[key].dtype) != _kind(tensor.dtype) and not is_counter(key)
    ]
    if wrong:
        raise ValueError(
            f"model.checkpoint={path}: tensors of another kind of number than this model's, {len(wrong)} in all: "
            f"{_first(wrong)}; give the weights as they were before they were quantized or converted"
        )


def _kind(dtype: torch.dtype) -> str:
    return "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "whole"


def _check_shapes(
    path: str | Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], num_classes: int
) -> None:
    shapes = {
        key: (tuple(found[key].shape), tuple(tensor.shape))
        for key, tensor in expected.items()
        if found[key].shape != tensor.shape
    }
    if not shapes:
        return
    if all(seen and wanted[:1] == (num_classes,) and seen[1:] == wanted[1:] for seen, wanted in shapes.values()):
        seen_classes = next(iter(shapes.values()))[0][0]
        raise ValueError(
            f"model.checkpoint={path}: its head has {seen_classes} classes, the data has {num_classes}; choose data "
            f"with {seen_classes} classes or a checkpoint with {num_classes}"
        )
    wrong = [f"{key} is {seen}, not {wanted}" for key, (seen, wanted) in shapes.items()]
    raise ValueError(
        f"model.checkpoint={path}: tensors of other shapes than this model's, {len(wrong)} in all: {_first(wrong)}; "
        "choose the architecture and image size the file was saved from"
    )
