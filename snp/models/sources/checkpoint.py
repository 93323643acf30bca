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

SHOWN_KEYS = 3
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
# Where checkpoints keep the weights, outermost first, and what wrappers write in front of their names. Running means of
# weights come before the weights themselves, as in timm: they are what such a training reports its scores of.
AVERAGED = ("state_dict_ema", "model_ema")
STATE_NAMES = (*AVERAGED, "state_dict", "model_state_dict", "model", "net", "state_dict")
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "backbone.", "state_dict.")


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
        ValueError: the file is no checkpoint, or its keys, shapes or number of classes are not the model's.
    """
    expected = model.state_dict()
    tensors, entry = _read(Path(path).expanduser())
    tensors = _without_prefix(tensors, set(expected))
    counters = {key: tensor for key, tensor in expected.items() if key.endswith("num_batches_tracked")}
    tensors = {**{key: tensor for key, tensor in counters.items() if key not in tensors}, **tensors}
    _check_keys(path, set(expected), set(tensors))
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
        found = _read_torch(path)
        if found is None:
            raise ValueError(
                f"model.checkpoint={path}: neither a safetensors file ({error}) nor one of torch.save that holds "
                "tensors only; convert the weights with safetensors.torch.save_file first"
            ) from error
        return found


def _read_torch(path: Path) -> tuple[dict[str, torch.Tensor], str] | None:
    """The state dict of a file of `torch.save`, and its name if it is an average; None of anything else, or code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever a file raises that torch cannot read
        return None
    entry = ""
    for name in STATE_NAMES:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content, entry = content[name], name if name in AVERAGED else entry
    if not isinstance(content, Mapping) or not content:
        return None
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return (tensors, entry) if tensors else None


def _without_prefix(tensors: dict[str, torch.Tensor], expected: set[str]) -> dict[str, torch.Tensor]:
    """Take off what wrappers wrote in front of the keys, as long as that makes more of them fit."""
    while not expected & set(tensors):
        prefix = next((name for name in PREFIXES if any(key.startswith(name) for key in tensors)), None)
        if prefix is None:
            break
        # What lies beside the network (a loss, a teacher) is no part of it.
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return tensors


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
    if all(wanted[:1] == (num_classes,) and seen[1:] == wanted[1:] for seen, wanted in shapes.values()):
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
