"""Which sums are residual streams?

A stream is a sum of activations that different layers computed, of which one part also has another reader: what is
added goes by it. Two layers that meet inside a block are none, nor are sums with parameters or buffers (biases,
position tables, affine maps of frozen norms), nor a value added to a function of itself alone.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from torch import Tensor, fx
from torch.utils import _pytree as pytree

__all__ = ["Origins", "is_residual", "origins_of"]

# node -> the layers that computed its units (or the inputs of the network); empty for parameters and constants
Origins = Mapping[fx.Node, frozenset[fx.Node]]

_PARTS = ("split", "chunk", "unbind", "select", "slice", "narrow", "getitem", "cat", "stack", "index")


def origins_of(origins: Origins, node: fx.Node) -> frozenset[fx.Node]:
    """Origins of a node that computes no units of its own."""
    return frozenset[fx.Node]().union(*(origins.get(source, frozenset()) for source in node.all_input_nodes))


def is_residual(origins: Origins, terms: Sequence[Sequence[fx.Node]]) -> bool:
    """Is a sum of these terms, each a product of some nodes, a residual stream?"""
    computed = [(term, frozenset[fx.Node]().union(*(origins.get(node, frozenset()) for node in term))) for term in terms]
    computed = [(term, layers) for term, layers in computed if layers]
    if len({layers for _, layers in computed}) < 2:
        return False
    return any(len(term) == 1 and _has_another_reader(origins, term[0]) for term, _ in computed)


def _has_another_reader(origins: Origins, node: fx.Node) -> bool:
    """Is the value, or what alone it was made of since a layer computed it, read by others, too?"""
    while True:
        if sum(map(_reads, node.users)) > 1:
            return True
        sources = [source for source in node.all_input_nodes if origins.get(source)]
        is_part = node.target is operator.getitem or any(word in str(node.target) for word in _PARTS)
        if is_part or origins.get(node) == {node} or len(sources) != 1:
            return False
        node = sources[0]


def _reads(user: fx.Node) -> bool:
    """Does a node take more of a value than its shape?"""
    if user.op == "output":
        return True
    values = pytree.tree_leaves(user.meta.get("val"))
    return any(isinstance(value, Tensor) for value in values) and "_like" not in str(user.target)
