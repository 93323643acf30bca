"""How do weights get to disk and back?  safetensors, written whole or not at all, with a hash of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from snp.core.files import whole
from snp.core.foreign import code_of

__all__ = [
    "fingerprint",
    "is_whole",
    "read_metadata",
    "read_tensors",
    "read_weights",
    "state_hash",
    "stored_types",
    "write_tensors",
    "write_weights",
]


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors; a half-written file never takes the place of a whole one."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # As one entry: safetensors writes several in any order, and the same content shall give the same bytes.
    facts = {**(metadata or {}), "content": _content(plain)}
    with whole(path, is_shared=True) as partial:
        try:
            save_file(plain, partial, {"facts": json.dumps(facts, sort_keys=True)})
        except SafetensorError as error:  # a full disk, for example
            raise OSError(str(error)) from error
        # safetensors makes files that only their owner may read; a run's folder is meant to be shared.
        partial.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        ValueError: it is missing or damaged, or its tensors are not those that were written.
    """
    if not path.is_file():
        raise ValueError(f"there are no weights at {path}: the run did not reach the stage that writes them")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[-1].strip()}") from error
    written = read_metadata(path).get("content")  # files of earlier versions and of others have none
    if written is not None and written != _content(tensors):
        raise ValueError(f"{path} is damaged: its content is not what was written")
    return tensors | {name: tensors[other] for name, other in _same(path).items()}


def _same(path: Path) -> dict[str, str]:
    """Further names of tensors -> the names under which they are written."""
    found: dict[str, str] = json.loads(read_metadata(path).get("same", "{}"))
    return found


def is_whole(path: Path) -> bool:
    """Can the tensors of a file be read as they were written?"""
    try:
        read_tensors(path)
    except ValueError:
        return False
    return True


def _content(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict; a tensor of several names, as a head that is an embedding, too, is written once."""
    state, first = model.state_dict(keep_vars=True), dict[int, str]()
    same = {name: first[id(tensor)] for name, tensor in state.items() if first.setdefault(id(tensor), name) != name}
    noted = {"same": json.dumps(same)} if same else {}
    write_tensors({name: state[name] for name in state if name not in same}, path, {**(metadata or {}), **noted})


def read_weights(model: nn.Module, path: Path, plan: str | None = None) -> None:
    """Load a state dict into a model of the same shapes.

    Args:
        model: changed in place.
        path: of the file.
        plan: mark of the plan that the weights must have been made by, where the file says by which.

    Raises:
        ValueError: the file is missing, damaged, made for other shapes or by another plan.
    """
    # Modules that have changed over time look for the version of their entries, which the file does not hold.
    state = OrderedDict(read_tensors(path))
    made_by = read_metadata(path).get("plan", plan)
    if plan is not None and made_by != plan:
        raise ValueError(f"{path} was made by another plan than the plan.json beside it: a file of another run")
    try:
        state._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}") from error


def stored_types(path: Path) -> dict[str, torch.dtype]:
    """Name -> dtype of every floating tensor of a file; empty when it is missing or damaged."""
    floating = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, no mapping
        found |= {name: found[other] for name, other in _same(path).items()}
    except (SafetensorError, OSError):
        return {}
    return {name: floating[kind] for name, kind in found.items() if kind in floating}


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a file; empty when it is missing or damaged, so that it is made again."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            found = dict(file.metadata() or {})
        return {**found, **json.loads(found.pop("facts", "{}"))}
    except (SafetensorError, ValueError, TypeError):
        return {}


def fingerprint(model: nn.Module, *facts: object) -> str:
    """Hash of a model's state, its own classes' code, and facts given as values with a stable text, hexadecimal."""
    code = code_of(type(module).__module__ for module in model.modules())
    return _hash_of_state(model, repr((*facts, *code)))


def state_hash(model: nn.Module) -> str:
    """Hash of a model's state alone, hexadecimal: the same from any file that gives it the same weights."""
    return _hash_of_state(model, "")


def _hash_of_state(model: nn.Module, beside: str) -> str:
    digest = hashlib.sha256(beside.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
