"""How do two networks run side by side where there is no memory for the values of one block of all samples?

What a block of the network hands to the next is kept for all batches: hidden states. Values inside a block are computed
from these whenever they are looked at, batch by batch, so that those of one block and one batch are in memory. It takes
as many passes through a block as layers are fitted in it, and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from snp.core.sums import ALONE, Sums
from snp.fit.node_result import result_of
from snp.fit.two_networks import TwoNetworks, Visit
from snp.graph.batches import Batch
from snp.graph.exported import is_view, num_bytes
from snp.graph.exports import Exports
from snp.measure.visiting import STAYS, Visits

__all__ = ["RecomputedNetworks"]


class RecomputedNetworks(TwoNetworks):
    """Two networks of one architecture on the same batches, block by block.

    Args:
        model, batches, visit, sums, exports, visits: as of :class:`snp.fit.two_networks.TwoNetworks`.
        blocks: names of the blocks that follow each other.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        visit: Visit,
        sums: Sums = ALONE,
        exports: Exports | None = None,
        visits: Visits = STAYS,
        *,
        blocks: Sequence[str],
    ) -> None:
        super().__init__(model, batches, visit, sums, exports, visits)
        self._places = _places_in(self.graph, frozenset(blocks))
        parameters = {node for node in self.graph.nodes if self._names.get(node.name) in dict(model.named_parameters())}
        self._kept = _handed_on(self.graph, self._places, parameters)
        self._looked_at = _OneBatch()

    def fitting_size(self, memory: int) -> int:
        """Of how many samples a batch may be, so that its values in one block of both networks fit into memory."""
        sizes: dict[int, int] = {}
        for node, place in self._places.items():
            if self.end is not None and place > self._places[self.end]:
                break
            sizes[place] = sizes.get(place, 0) + (0 if is_view(node) else num_bytes(node))
        per_sample = 2 * max(sizes.values()) / self.batch_size
        return max(1, int(memory / max(per_sample, 1)))

    @property
    def bytes_per_batch(self) -> int:
        """What is held of every batch at most, while one block after the other is computed."""
        alive: dict[int, int] = {}
        for node in self._kept:
            until = max((self._places[user] for user in node.users), default=self._places[node])
            for place in range(self._places[node], until + 1):
                alive[place] = alive.get(place, 0) + num_bytes(node)
        return 2 * max(alive.values(), default=0)

    def _values(
        self, node: fx.Node, store: Mapping[fx.Node, Sequence[Any]], tensors: Mapping[str, Tensor]
    ) -> Sequence[Any]:
        inputs, own = dict[fx.Node, Sequence[Any]](), dict[fx.Node, Tensor]()
        for argument in node.all_input_nodes:
            name = self._names.get(argument.name)
            if name is None:
                inputs[argument] = store[argument]
            else:
                own[argument] = tensors[name]
        values = _Recomputed(node, inputs, own, len(self._inputs), self._looked_at)
        if node not in self._kept:
            return values
        found = [values[batch] for batch in range(len(self._inputs))]
        self._looked_at.forget()
        return found


@dataclass(frozen=True, eq=False)
class _Recomputed(Sequence[Any]):
    """Values of a node per batch, which are computed when they are looked at.

    Attributes:
        node: what computes them.
        inputs: its arguments' values.
        tensors: the parameters and buffers among its arguments, as they were when its turn came.
        num_batches: so many.
        looked_at: what is known of the batch that was looked at last.
    """

    node: fx.Node
    inputs: Mapping[fx.Node, Sequence[Any]]
    tensors: Mapping[fx.Node, Tensor]
    num_batches: int
    looked_at: _OneBatch

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, batch: Any) -> Any:
        if not 0 <= batch < self.num_batches:
            raise IndexError(batch)
        return self.looked_at.value(self, batch)

    def compute(self, given: Mapping[_Recomputed, Any], batch: int) -> Any:
        """The value for one batch, once those of its inputs are given."""

        def value(argument: fx.Node) -> Any:
            if argument in self.tensors:
                return self.tensors[argument]
            source = self.inputs[argument]
            return given[source] if isinstance(source, _Recomputed) else source[batch]

        return result_of(self.node, value)


class _OneBatch:
    """Values of one batch: of the one that was looked at last."""

    def __init__(self) -> None:
        self._batch = -1
        self._known: dict[_Recomputed, Any] = {}

    def forget(self) -> None:
        """Let go of them."""
        self._batch, self._known = -1, {}

    def value(self, wanted: _Recomputed, batch: int) -> Any:
        """Of one node, and on the way of all that it depends on inside its block."""
        if batch != self._batch:
            self._batch, self._known = batch, {}
        waiting = [wanted]
        while waiting:
            at = waiting[-1]
            missing = [s for s in at.inputs.values() if isinstance(s, _Recomputed) and s not in self._known]
            if at in self._known or not missing:
                waiting.pop()
                if at not in self._known:
                    self._known[at] = at.compute(self._known, batch)
            else:
                waiting += missing
        return self._known[wanted]


def _places_in(graph: fx.Graph, blocks: frozenset[str]) -> dict[fx.Node, int]:
    """Number of the stretch of the graph that every node lies in: a block, or what stands between two of them."""
    places, place, current = dict[fx.Node, int](), 0, None
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack is not None:  # else it belongs to what stands in front of it
            found = next((path for path, _ in stack.values() if path in blocks), None)
            place, current = place + (found != current), found
        places[node] = place
    return places


def _handed_on(graph: fx.Graph, places: Mapping[fx.Node, int], parameters: set[fx.Node]) -> list[fx.Node]:
    """Nodes whose values are kept: another block reads them, or they would be others if they were computed again.

    What depends on no parameter (positions, masks) costs next to nothing to be computed again.
    """
    depends, kept = set(parameters), list[fx.Node]()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if any(argument in depends for argument in node.all_input_nodes):
            depends.add(node)
        is_read_elsewhere = any(places[user] != places[node] for user in node.users)
        if (node in depends and is_read_elsewhere) or _is_random(node):
            kept.append(node)
    return kept


def _is_random(node: fx.Node) -> bool:
    """Would the value be another one if it was computed again?  Dropout, switched off, is none the less called so."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    place = {"aten.dropout.default": 2, "aten.scaled_dot_product_attention.default": 4}.get(str(node.target))
    return place is None or (len(node.args) > place and bool(node.args[place]))
