"""Which sums are residual streams?

A stream is a sum of activations that different layers computed, of which one part also has another reader: what is
added goes by it. Two layers that meet inside a block are none, nor are sums with parameters or buffers (biases,
position tables, affine maps of frozen norms), nor a value added to a function of itself alone, nor multiples of one
value (`x * gate + x`, states of Mamba and `x * D` beside them): where that is zero, so is their sum.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

__all__ = ["Streams"]

_PARTS = ("split", "chunk", "unbind", "select", "slice", "narrow", "cat", "stack", "index")
_SAME = ("to", "_to_copy", "type_as", "alias", "clone", "contiguous", "unsqueeze", "squeeze", "transpose", "permute",
         "view", "reshape", "expand", "select", "slice")  # fmt: skip
_PRODUCTS = ("mul", "matmul", "bmm", "einsum")
_ZEROS = ("zeros", "new_zeros", "zeros_like")
_NONE: frozenset[fx.Node] = frozenset()


class Streams:
    """Which layers computed the units of every node, and where values go by them.

    Attributes:
        origins: node -> the layers, or inputs of the network; empty for parameters and constants.
        whole: nodes that hold a part of another one's values, but of each of its units.
        factors: node -> nodes that it is a multiple of, itself among them; None for zeros, a multiple of everything.
        labels: node -> labels of its values.
    """

    def __init__(self) -> None:
        self.factors: dict[fx.Node, frozenset[fx.Node] | None] = {}
        self.labels: dict[fx.Node, Any] = {}
        self.origins: dict[fx.Node, frozenset[fx.Node]] = {}
        self.whole: set[fx.Node] = set()

    def begin(self, node: fx.Node) -> None:
        """A layer, or an input of the network, makes units of its own."""
        self.origins[node] = frozenset({node})

    def follow(self, node: fx.Node, sources: Sequence[fx.Node], labels: Any = None) -> None:
        """A node holds the units of others, unless it began units of its own."""
        self.origins.setdefault(node, _NONE.union(*(self.origins.get(source, _NONE) for source in sources)))
        self.labels[node] = labels
        self.factors[node] = self._factors(node, sources)

    def _factors(self, node: fx.Node, sources: Sequence[fx.Node]) -> frozenset[fx.Node] | None:
        name = "" if node.target is operator.getitem else f"{node.target}.".split(".")[1].rstrip("_")
        own = frozenset({node}) if self.origins[node] else _NONE
        if name in _ZEROS:
            return None
        if name in _PRODUCTS and node not in self.origins[node]:
            return self._product(sources, own)
        if name == "stack" or (name in ("add", "sub") and len(sources) == 2):
            return self.common([[source] for source in sources], own)
        if name in _SAME and sources and (not _is_part(node) or node in self.whole):
            return self._product(sources[:1], own)
        return own

    def _product(self, nodes: Sequence[fx.Node], own: frozenset[fx.Node] = _NONE) -> frozenset[fx.Node] | None:
        found = own
        for node in nodes:
            factors = self.factors.get(node, self.origins.get(node) and frozenset({node}))
            if node in self.factors and factors is None:
                return None
            found |= factors or _NONE
        return found

    def common(self, terms: Sequence[Sequence[fx.Node]], own: frozenset[fx.Node] = _NONE) -> frozenset[fx.Node] | None:
        """What every term, a product of nodes, is a multiple of; None where each of them is zero."""
        found: frozenset[fx.Node] | None = None
        for term in terms:
            factors = self._product(term)
            found = factors if found is None else found if factors is None else found & factors
        return None if found is None else found | own

    def is_residual(self, terms: Sequence[Sequence[fx.Node]]) -> bool:
        """Is a sum of these terms, each a product of some nodes, a residual stream?"""
        layers = [_NONE.union(*(self.origins.get(node, _NONE) for node in term)) for term in terms]
        if len({found for found in layers if found}) < 2:
            return False
        return any(
            found and len(term) == 1 and self._has_another_reader(term[0])
            for term, found in zip(terms, layers, strict=True)
        )

    def _has_another_reader(self, node: fx.Node) -> bool:
        """Is the value, or what alone it was made of since a layer computed it, read by others, too?"""
        while True:
            if sum(map(_reads, node.users)) > 1:
                return True
            sources = [source for source in node.all_input_nodes if self.origins.get(source)]
            if len(sources) != 1 or node in self.origins[node] or (_is_part(node) and node not in self.whole):
                return False
            node = sources[0]


def _is_part(node: fx.Node) -> bool:
    return node.target is operator.getitem or any(word in str(node.target) for word in _PARTS)


def _reads(user: fx.Node) -> bool:
    """Does a node take more of a value than its shape?"""
    if user.op == "output":
        return True
    values = pytree.tree_leaves(user.meta.get("val"))
    return any(isinstance(value, Tensor) for value in values) and "_like" not in str(user.target)
