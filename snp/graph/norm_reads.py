"""Behind which norm of a residual stream does a weight read, and which layer's outputs does a module scale?

What moves values, and does not mix them, holds those of a norm or a layer still.
"""

from __future__ import annotations

import operator

from torch import Tensor, fx

from snp.graph.aten import ALIKE, SHAPE
from snp.graph.traced import module_running

__all__ = ["NormReads"]

_PASSING = frozenset({*ALIKE.split(), *SHAPE.split(), "mean"})


class NormReads:
    """Nodes that hold a norm's values, and the weights that read them.

    Attributes:
        found: weight -> name of the norm's weight; None where it reads behind several, or something that was made of
            one.
        scaled: module -> weight of the layer whose outputs it multiplies by a parameter.
        met: labels of units that met a norm, and whether it takes their mean away.
    """

    def __init__(self) -> None:
        self.met: list[tuple[Tensor, bool]] = []
        self.found: dict[str, str | None] = {}
        self._norms: dict[fx.Node, str] = {}
        self.scaled: dict[str, str] = {}
        self._layers: dict[fx.Node, str] = {}

    def begin(self, node: fx.Node, weight: str, units: Tensor, *, centres: bool) -> None:
        """A norm of that weight gives out its values."""
        self._norms[node] = weight
        self.met.append((units, centres))

    def follow(self, node: fx.Node) -> None:
        """A node may hold the values of another one, all units of them."""
        sources = node.all_input_nodes
        if len(sources) == 1 and _name(node) in _PASSING:
            for held in (self._norms, self._layers):
                if sources[0] in held:
                    held.setdefault(node, held[sources[0]])
        layers = [self._layers[source] for source in sources if source in self._layers]
        module = module_running(node)
        if _name(node) == "mul" and len(layers) == 1 and module and any(s.op == "placeholder" for s in sources):
            self.scaled[module] = layers[0]

    def holds(self, node: fx.Node) -> bool:
        """Does a node get the values of a norm?"""
        return any(source in self._norms for source in node.all_input_nodes)

    def read(self, weight: str, node: fx.Node) -> None:
        """A node reads by a weight."""
        norms = {self._norms[source] for source in node.all_input_nodes if source in self._norms}
        norm = norms.pop() if len(norms) == 1 else None
        self._layers[node] = weight
        self.found[weight] = norm if self.found.get(weight, norm) == norm else None


def _name(node: fx.Node) -> str:
    """Of the operator, without its namespace and overload."""
    if node.target is operator.getitem:
        return "alias"
    parts = str(node.target).split(".")
    return parts[1].rstrip("_") if len(parts) > 1 else ""
