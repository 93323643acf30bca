"""How do weights get to disk and back?  safetensors, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["fingerprint", "read_metadata", "read_weights", "write_tensors", "write_weights"]


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors; a half-written file never takes the place of a whole one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # runs may share a folder
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, partial, dict(metadata or {}))
    # safetensors makes files that only their owner may read; a run's folder is meant to be shared.
    partial.chmod(0o666 & ~_umask())
    partial.replace(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict; tensors that share memory are written once each."""
    write_tensors(model.state_dict(), path, metadata)


def read_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into a model of the same shapes.

    Raises:
        ValueError: the file is missing, damaged or made for other shapes.
    """
    if not path.is_file():
        raise ValueError(f"there are no weights at {path}: the run did not reach the stage that writes them")
    try:
        # Modules that have changed over time look for the version of their entries, which the file does not hold.
        state = OrderedDict(load_file(path))
        state._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
        model.load_state_dict(state, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a file; empty when it is missing or damaged, so that it is made again."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}


def fingerprint(model: nn.Module, *facts: object) -> str:
    """Hash of a model's state and of facts given as values with a stable text, hexadecimal."""
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
