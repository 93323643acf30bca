"""Under which names do the tensors of a network stand in a state dict that wrappers wrote?"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["is_counter", "without_prefix"]

# What wrappers write in front of the names of the network's own tensors.
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "backbone.", "state_dict.")


def is_counter(name: str) -> bool:
    """Is it a counter of batches?  Old files have none, and no value depends on them."""
    return name.endswith("num_batches_tracked")


def without_prefix(path: str | Path, tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers wrote in front of the names; what lies beside the network (a loss, a teacher) is left out.

    Args:
        path: of the file, for the message.
        tensors: of the file.
        expected: the state dict of the network.

    Raises:
        ValueError: the whole network is there more than once, with different values.
    """
    copies = _copies(tensors, expected)
    if "" in copies:
        return tensors
    others = [prefix for prefix in copies[1:] if not _same(tensors, copies[0], prefix, expected)]
    if others:
        raise ValueError(
            f"model.checkpoint={path}: the whole network is in it more than once, with different values, as "
            f"{copies[0]}* and as {others[0]}*, and nothing says which is meant (one may be a running mean of the "
            "other, or its teacher); write the tensors of one of them to a file of their own"
        )
    known = [prefix for prefix in copies if _is_known(prefix)]
    return _under(tensors, known[0]) if known else _peeled(tensors, set(expected))


def _copies(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """The prefixes under which all of the network is there, in its shapes."""
    shapes = {name: tensor.shape for name, tensor in expected.items() if not is_counter(name)}
    one = max(shapes, key=len, default="")
    prefixes = {name.removesuffix(one) for name in tensors if name == one or name.endswith(f".{one}")}
    return sorted(
        prefix
        for prefix in prefixes
        if all(prefix + name in tensors and tensors[prefix + name].shape == shape for name, shape in shapes.items())
    )


def _same(tensors: Mapping[str, Tensor], first: str, second: str, expected: Mapping[str, Tensor]) -> bool:
    """A network that has two names in its wrapper is written twice."""
    pairs = [(tensors[first + name], tensors[second + name]) for name in expected if not is_counter(name)]
    return all(
        one.dtype == other.dtype
        and one.layout == other.layout == torch.strided
        and not (one.is_meta or other.is_meta)
        and torch.equal(one, other)
        for one, other in pairs
    )


def _is_known(prefix: str) -> bool:
    while found := next((name for name in PREFIXES if prefix.startswith(name)), None):
        prefix = prefix.removeprefix(found)
    return not prefix


def _peeled(tensors: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Of a network that is not there as a whole: as much of the prefix off as makes the difference plain."""
    while not expected & set(tensors):
        prefix = next((name for name in PREFIXES if any(key.startswith(name) for key in tensors)), None)
        if prefix is None:
            break
        tensors = _under(tensors, prefix)
    return tensors


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
