"""Can a constant be added to what a layer gives out, by a tensor that nobody else reads?"""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["mean_behind", "takes_offset"]

_BIASED = ("linear", "conv", "addmm")


def mean_behind(node: fx.Node) -> Any:
    """Running mean of the normalisation that alone reads a layer's output: subtracting from it adds to the output."""
    users = list(node.users)
    if len(users) == 1 and "batch_norm" in str(users[0].target) and users[0].args[0] is node:
        return users[0].args[3]
    return None


def takes_offset(node: fx.Node) -> bool:
    """Has the layer that a node computes a bias of its own, or a mean behind it, and is it called once?"""
    name = str(node.target).rpartition("::")[2].split(".")[-2:][0]
    place, weight = (0, 2) if name == "addmm" else (2, 1)
    bias: Any = node.args[place] if name.startswith(_BIASED) and len(node.args) > place else None
    read: Any = node.args[weight] if len(node.args) > weight else None
    if isinstance(read, fx.Node) and len(read.users) > 1:
        return False
    return any(isinstance(each, fx.Node) and len(each.users) == 1 for each in (bias, mean_behind(node)))
