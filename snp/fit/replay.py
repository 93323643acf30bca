"""What does a network compute with a few other weights?  Only what comes behind them is computed again.

The dense network's values at one place of the exported graph are held; places are passed in order, so that one sweep
over the network serves all trials of its groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.exported import Exported, is_inplace

__all__ = ["Replay"]

_Values = dict[fx.Node, Any]


class Replay:
    """Outputs of a network with some weights changed.

    Args:
        exported: the dense network, for batches of this size; its outputs are no buffers.
        batches: inputs, all of one form.
    """

    def __init__(self, exported: Exported, batches: Sequence[Batch]) -> None:
        assert exported.outputs is not None, "the network writes to its buffers"
        self._exported, self._spec, self._batches = exported, exported.outputs, list(batches)
        self._nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
        place = {node: number for number, node in enumerate(self._nodes)}
        (output,) = (node for node in exported.graph.nodes if node.op == "output")
        self._output, place[output] = output, len(self._nodes)
        self._last = {node: max((place[user] for user in node.users), default=-1) for node in self._nodes}
        self._first: dict[str, int] = {}  # tensor -> the first node that reads it
        for node in exported.graph.nodes:
            if node.name in exported.names and node.users:
                name, first = exported.names[node.name], min(place[user] for user in node.users)
                self._first[name] = min(first, self._first.get(name, first))
        self._rewind()

    def _rewind(self) -> None:
        self._place = 0
        self._values: list[_Values] = [{} for _ in self._batches]

    def outputs(self, weights: Mapping[str, Tensor]) -> list[Any]:
        """The network's output for every batch.

        Args:
            weights: name -> what takes the tensor's place; the dense ones are at all others.
        """
        start = min((self._first[name] for name in weights if name in self._first), default=len(self._nodes))
        if start < self._place:
            self._rewind()
        tensors = self._exported.tensors
        for number, values in enumerate(self._values):
            self._run(values, number, self._place, start, tensors)
        self._place = start
        changed = {**tensors, **weights}
        return [self._finished(dict(values), number, start, changed) for number, values in enumerate(self._values)]

    def _finished(self, values: _Values, number: int, start: int, tensors: Mapping[str, Tensor]) -> Any:
        self._run(values, number, start, len(self._nodes), tensors)
        leaves = fx.node.map_arg(self._output.args[0], lambda node: self._value(node, values, number, tensors))
        return pytree.tree_unflatten(list(leaves), self._spec)

    def _run(self, values: _Values, number: int, start: int, stop: int, tensors: Mapping[str, Tensor]) -> None:
        """Compute some nodes for one batch; what nobody reads any more goes."""
        for place in range(start, stop):
            node = self._nodes[place]
            args: Any
            args, kwargs = fx.node.map_arg(
                (node.args, node.kwargs), lambda one: self._value(one, values, number, tensors)
            )
            if is_inplace(node):
                # The value that is written over may still be needed under its old name.
                args = (args[0].clone(), *args[1:])
            assert callable(node.target)
            values[node] = node.target(*args, **kwargs)
            for argument in node.all_input_nodes:
                if self._last.get(argument) == place:
                    del values[argument]

    def _value(self, node: fx.Node, values: _Values, number: int, tensors: Mapping[str, Tensor]) -> Any:
        if node in values:
            return values[node]
        name = self._exported.names.get(node.name)
        if name is not None:
            return tensors[name]
        if node.name in self._exported.constants:
            return self._exported.constants[node.name]
        return self._batches[number].leaves[self._exported.inputs[node.name]]
