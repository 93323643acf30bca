"""How do the tensors of a safetensors file get into a model, and what does the user hear when they do not fit?

`load` copies a file into a model tensor by tensor, all or nothing. What a user can get wrong (a path, a format, keys,
shapes, a head of another number of classes) is told apart here, because `load_state_dict` would answer all of it with
the same wall of text.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

SHOWN_KEYS = 3


def load(model: nn.Module, path: str | Path, num_classes: int) -> None:
    """Copy every tensor of a safetensors file into `model`, in place.

    Args:
        model: the network; its state dict must have exactly the keys and shapes of the file.
        path: the safetensors file, `~` allowed.
        num_classes: classes of the data, to tell a wrong head from other wrong shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not safetensors, or its keys, shapes or number of classes are not the model's.
    """
    tensors = _read(Path(path).expanduser())
    expected = model.state_dict()
    _check_keys(path, set(expected), set(tensors))
    _check_shapes(path, expected, tensors, num_classes)
    model.load_state_dict(tensors, strict=True)


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"model.checkpoint={path}: there is no such file; give the path of a safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"model.checkpoint={path}: not a safetensors file ({error}); convert the weights with "
            "safetensors.torch.save_file first"
        ) from error


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
