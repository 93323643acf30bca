"""How does what a module gets reach what it gives out: by which sums, beside which branches?

What makes a branch is found by going back from the sum to the nearest tensor that all of it is a multiple of: a
normalisation's or a scale's, or a layer's weight and bias. Whether the module really gives out its input once these
are zero is tried (:mod:`snp.surgery.removal`); the graph alone is not believed.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from snp.graph.exported import Exported
from snp.graph.flattened import product_of_tokens

__all__ = ["RECTIFIERS", "Passage", "kind_of", "passage_of"]

_VIEWS = ("view", "reshape", "permute", "transpose", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous",
          "clone", "alias", "to", "_to_copy", "dropout", "detach", "expand")  # fmt: skip
RECTIFIERS = ("relu", "relu6", "hardtanh")
_SUMS = ("add", "cat", "stack")
_LAYERS = ("linear", "addmm", "matmul", "mm", "bmm", "einsum",
           *(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)))  # fmt: skip
_NORMS = ("batch_norm", "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm")


@dataclass(frozen=True, eq=False)
class Passage:
    """How a module stands in a graph.

    Attributes:
        entry: what the sums begin with, outside of it.
        exit: what it gives out.
        nodes: all that it computes.
        writers: names of tensors that make its branches.
    """

    entry: fx.Node
    exit: fx.Node
    nodes: frozenset[fx.Node]
    writers: tuple[str, ...]


def passage_of(exported: Exported, name: str) -> Passage:
    """The passage of a module.

    Args:
        exported: the network.
        name: of the module.

    Raises:
        ValueError: it is no chain of sums, or more than its output is read elsewhere; the message says which.
    """
    nodes = _nodes_of(exported.graph, name)
    exits = [node for node in nodes if any(user not in nodes for user in node.users)]
    if len(exits) != 1:
        raise ValueError("more than one value of it is read elsewhere" if exits else "nothing of it is read elsewhere")
    walk = _Walk(exported, nodes)
    entry = walk.stream(exits[0])
    if entry is None or not walk.writers:
        raise ValueError("it does not add to its input")
    return Passage(entry, exits[0], nodes, tuple(dict.fromkeys(walk.writers)))


def _nodes_of(graph: fx.Graph, name: str) -> frozenset[fx.Node]:
    """Calls that the module makes; what belongs to none belongs to what stands in front of it."""
    found, is_in = set[fx.Node](), False
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        is_in = is_in if stack is None else any(path == name for path, _ in stack.values())
        if node.op == "call_function" and is_in:
            found.add(node)
    return frozenset(found)


@dataclass(frozen=True, eq=False)
class _Walk:
    """Back from what a module gives out to what it got.

    Attributes:
        exported: the network.
        nodes: that the module computes.
        writers: tensors found on the way, some of them more than once.
    """

    exported: Exported
    nodes: frozenset[fx.Node]
    writers: list[str] = field(default_factory=list)

    def stream(self, node: Any) -> fx.Node | None:
        """The node outside of the module that this one is the sum of and branches; None where it is no such sum."""
        while isinstance(node, fx.Node) and node in self.nodes:
            kind = kind_of(node)
            if kind == "add":
                return self._sum(node)
            if kind not in _VIEWS + RECTIFIERS:
                return None
            node = node.args[0]
        is_value = isinstance(node, fx.Node) and self._name(node) is None
        return node if is_value and isinstance(node.meta.get("val"), Tensor) else None

    def _sum(self, node: fx.Node) -> fx.Node | None:
        for part, other in (node.args[:2], node.args[1::-1]):
            before = len(self.writers)
            found = self.stream(part)
            branch = None if found is None else self.zeros(other)
            if branch is not None:
                self.writers.extend(branch)
                return found
            del self.writers[before:]
        return None

    def zeros(self, node: Any) -> list[str] | None:
        """Tensors at whose zero this node is zero; None where none are known."""
        if not isinstance(node, fx.Node):
            return [] if node == 0 else None
        if (name := self._name(node)) is not None:
            return [name]
        if node not in self.nodes:
            return None
        kind, args = kind_of(node), node.args
        if kind in _LAYERS and (own := self._tensors_of(args)):
            return own
        if kind in _NORMS and (own := self._tensors_of(args[1:3] if kind == "batch_norm" else args[1:])):
            return own
        if kind in _SUMS:
            return self._all(args[0] if kind != "add" and isinstance(args[0], Sequence) else args[:2])
        if kind == "mul":
            named = sorted(args[:2], key=lambda arg: self._name(arg) is None)
            return next((found for arg in named if (found := self.zeros(arg)) is not None), None)
        return self.zeros(args[0]) if args and isinstance(args[0], fx.Node) else None

    def _all(self, parts: Any) -> list[str] | None:
        found = list[str]()
        for part in parts:
            if (zeros := self.zeros(part)) is None:
                return None
            found += zeros
        return found

    def _tensors_of(self, args: Any) -> list[str]:
        """Parameters among arguments, turned or not."""
        found = list[str]()
        for arg in args:
            while isinstance(arg, fx.Node) and arg in self.nodes and kind_of(arg) in (*_VIEWS, "t", "numpy_T", "mT"):
                arg = arg.args[0]
            name = self._name(arg)
            found += [] if name is None else [name]
        return found

    def _name(self, node: Any) -> str | None:
        return self.exported.names.get(node.name) if isinstance(node, fx.Node) else None


def kind_of(node: fx.Node) -> str:
    """``add`` of ``aten.add_.Tensor``."""
    if node.target is product_of_tokens:
        return "linear"
    if node.target is operator.getitem:
        return "getitem"
    return f"{node.target}.".split(".")[1].rstrip("_") if node.op == "call_function" else ""
