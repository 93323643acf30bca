"""How do the dense network and the one that is being changed run side by side, layer by layer?

Every node of the exported graph is computed for all batches before the next one, once with the dense tensors and once
with the changed ones, so that a layer can be fitted on what the changed network really feeds it. Where the two do not
differ yet they share their values. Values are dropped after their last use.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from snp.core.sums import ALONE, Sums
from snp.fit.node_result import result_of
from snp.graph.batches import Batch, device_of
from snp.graph.exported import footprint
from snp.graph.exports import Exports
from snp.measure.visiting import STAYS, Visits

__all__ = ["TwoNetworks", "Visit"]

Visit = Callable[["TwoNetworks", fx.Node], None]
_Store = Mapping[fx.Node, Sequence[Any]]


class TwoNetworks:
    """Two networks of one architecture on the same batches.

    Args:
        model: the dense network in evaluation mode.
        batches: inputs, all of one shape, where the model is.
        visit: called before every node that is computed; it may read :attr:`dense`, :attr:`current` and change
            :attr:`tensors`.
        sums: over all processes, each of which has batches of its own.
        exports: programs of the network that are known.
        visits: where blocks visit a device, values are there, and of either network's tensors those of one block.

    Attributes:
        sums: as given.
        dense: node -> its value in the dense network, per batch.
        current: the same in the network that is being changed; the very same sequence where nothing differs yet.
        tensors: name -> parameter or buffer of the network that is being changed.
        changed: those that differ from the dense network's, where the model is.
        device: where values are.
        open: nodes that are being computed: what depends on one of them cannot be computed yet.
        exported: the network as a graph.
        exits: nodes whose values may be the dense network's again, to the bit, although tensors in front differ.
        aims: node -> the one whose dense values it should have instead of its own (:mod:`snp.graph.residual`).
        end: the last node of a run; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        visit: Visit,
        sums: Sums = ALONE,
        exports: Exports | None = None,
        visits: Visits = STAYS,
    ) -> None:
        self.exported = (exports or Exports()).of(model, batches[0], visits.device)
        self.graph, self._names = self.exported.graph, self.exported.names
        self._inputs, self._visit, self.sums = list(batches), visit, sums
        self._visits, self.device = visits, visits.device or device_of(model)
        self.changed: dict[str, Tensor] = {}
        self._dense_tensors = visits.tensors(self.exported.tensors)
        self.tensors = ChainMap(visits.tensors(self.changed), self._dense_tensors)
        self._silent: dict[str, tuple[int, Tensor]] = {}
        self.dense: dict[fx.Node, Sequence[Any]] = {}
        self.current: dict[fx.Node, Sequence[Any]] = {}
        self.open, self._done = set[fx.Node](), set[fx.Node]()
        self.aims, self.exits = dict[fx.Node, fx.Node](), frozenset[fx.Node]()
        self.end: fx.Node | None = None
        self._uses = {node: len(node.users) for node in self.graph.nodes}

    def limit(self, memory: int) -> int:
        """Use only as many batches as fit into so many bytes, at least one; returns the number of samples left."""
        del self._inputs[max(1, memory // max(self.bytes_per_batch, 1)) :]
        return sum(batch.size for batch in self._inputs)

    @property
    def batch_size(self) -> int:
        """Samples per batch."""
        return self._inputs[0].size

    @property
    def bytes_per_batch(self) -> int:
        """What is held of one batch at most, of both networks."""
        return 2 * footprint(self.graph, self.end)

    def run(self) -> None:
        """Compute the nodes in order, up to the last one asked for."""
        with torch.no_grad():
            for node in self.graph.nodes:
                if node.op != "output":
                    self.compute(node)
                if node is self.end:
                    break

    def name_of(self, node: Any) -> str | None:
        """Name of the parameter or buffer that a node stands for, else None."""
        return self._names.get(node.name) if isinstance(node, fx.Node) else None

    def num_reads(self, name: str) -> int:
        """How many nodes read a parameter or buffer."""
        return sum(len(node.users) for node in self.graph.nodes if self._names.get(node.name) == name)

    def differs(self, node: fx.Node) -> bool:
        """Has the value of a computed node moved away from the dense network's?"""
        return self.current[node] is not self.dense[node]

    def change(self, name: str, value: Tensor) -> None:
        """Give the changed network another tensor from here on; its silent rows stay zero."""
        value = value.to(self._dense_tensors[name])
        if name in self._silent:
            dim, rows = self._silent[name]
            value = value.index_fill(dim, rows.to(value.device), 0.0)
        self.tensors[name] = value

    def take_back(self) -> dict[str, Tensor]:
        """Give the changed network all of its dense tensors again; returns those that it had instead, by name."""
        found = dict(sorted(self.changed.items()))
        self.changed.clear()
        return found

    def zero_rows(self, rows: Mapping[str, tuple[int, Tensor]]) -> None:
        """Keep indices along one dimension of tensors of the changed network at zero, whatever they are changed to."""
        self._silent = dict(rows)
        for name in rows:
            self.change(name, self._dense_tensors[name])

    def compute(self, node: fx.Node) -> None:
        """Compute a node, and first what it needs, unless that was done before."""
        if node in self._done:
            return
        self._done.add(node)
        if node.op in ("placeholder", "get_attr"):
            if node.name not in self._names:
                self.dense[node] = self.current[node] = self._given(node)
            return
        self.open.add(node)
        for argument in node.all_input_nodes:
            self.compute(argument)
        self._visit(self, node)
        for argument in node.all_input_nodes:
            self._renew(argument)
        self._call(node)
        self.open.remove(node)
        for argument in node.all_input_nodes:
            self._uses[argument] -= 1
            if self._uses[argument] == 0:
                self.dense.pop(argument, None)
                self.current.pop(argument, None)

    def _renew(self, node: fx.Node) -> None:
        """Compute what is made of a weight alone, such as its transpose, from the weight as it was just fitted."""
        if node.op == "call_function" and all(argument.name in self._names for argument in node.all_input_nodes):
            self._call(node)

    def _given(self, node: fx.Node) -> list[Any]:
        if node.name in self.exported.constants:
            return [self.exported.constants[node.name]] * len(self._inputs)
        position = self.exported.inputs[node.name]
        return [self._visits.there(batch.leaves[position]) for batch in self._inputs]

    def counted(self, batch: int, values: Tensor) -> Tensor | None:
        """Which rows of an activation [..., C] of a batch are no padding; None where all are."""
        found = self._inputs[batch].counted(values.shape[:-1])
        return None if found is None else found.to(values.device)

    def dense_values(self, node: fx.Node) -> Sequence[Any]:
        """The dense network's values of a node whose inputs are computed; kept for when its turn comes."""
        if node not in self.dense:
            self.dense[node] = self._values(node, self.dense, self._dense_tensors)
        return self.dense[node]

    def _call(self, node: fx.Node) -> None:
        self.dense_values(node)
        inputs = [argument for argument in node.all_input_nodes if argument in self.dense]
        names = {self._names[argument.name] for argument in node.all_input_nodes if argument.name in self._names}
        if names & self.changed.keys() or any(self.differs(argument) for argument in inputs):
            self.current[node] = self._values(node, self.current, self.tensors)
            if node in self.exits and all(map(torch.equal, self.current[node], self.dense[node])):
                self.current[node] = self.dense[node]
        else:
            self.current[node] = self.dense[node]

    def _values(self, node: fx.Node, store: _Store, tensors: Mapping[str, Tensor]) -> Sequence[Any]:
        """Of all batches, from those of its arguments as they are now."""

        def value(batch: int, argument: fx.Node) -> Any:
            name = self._names.get(argument.name)
            return tensors[name] if name is not None else store[argument][batch]

        return [result_of(node, partial(value, batch)) for batch in range(len(self._inputs))]
