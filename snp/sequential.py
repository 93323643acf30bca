"""Which weights give the dense network's values on what the pruned network really computes?

Layers are fitted in execution order. Each reader's inputs come from the network as it is pruned so far, its target
from the dense network, so that errors do not pile up. Where a reader's output is added to a residual stream, the
target includes the error that the stream has gathered so far (error repair).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from snp.core.gram import CrossMoments, Moments
from snp.core.reconstruct import fold, refit
from snp.graph.readers import Reader
from snp.lockstep import Lockstep, equal_batches
from snp.tail import Tail, tail_of

__all__ = ["FitSettings", "Fits", "fit_in_sequence"]

_LARGEST_BATCH = 128

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How the layers are fitted.

    Attributes:
        ridge: relative to the mean energy of a kept column.
        intercept: fit an offset into the bias (or the mean of the normalisation behind the layer).
        repair: let a layer that adds to a residual stream make up for the stream's error.
        batch_norm: re-estimate normalisation statistics on what the pruned network feeds them.
        memory_gib: what the values that are alive at once may take; fewer batches are used beyond.
    """

    ridge: float = 1e-4
    intercept: bool = True
    repair: bool = True
    batch_norm: bool = False
    memory_gib: float = 8.0


@dataclass(frozen=True, eq=False)
class Fits:
    """Name -> dense-shaped tensor of everything that changed, and the number of samples that there was memory for."""

    tensors: dict[str, Tensor]
    samples: int


def fit_in_sequence(
    model: nn.Module,
    batches: Sequence[Any],
    readers: Mapping[str, Reader],
    kept: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    settings: FitSettings,
    reduce: Reduce = lambda tensor: tensor,
) -> Fits:
    """Fit every reader whose inputs have changed or lose columns, one after the other.

    Args:
        model: the dense network in evaluation mode.
        batches: inputs on the model's device.
        readers: weight name -> how its inputs are read.
        kept: weight name -> Gram columns that stay, for every reader.
        start: weight name -> folded weight to use where a layer cannot be fitted here (its weight is read twice).
        settings: see :class:`FitSettings`.
        reduce: adds a tensor up over processes.

    Returns:
        Weights with zeros in cut columns, biases, statistics.
    """
    fitter = _Fitter(readers, kept, start, settings, reduce)
    lockstep = Lockstep(model, equal_batches(batches, _LARGEST_BATCH), fitter.visit)
    samples = lockstep.limit(int(settings.memory_gib * 2**30))
    fitter.count_reads(lockstep)
    lockstep.run()
    return Fits({name: lockstep.tensors[name] for name in sorted(lockstep.changed)}, samples)


class _Fitter:
    def __init__(
        self,
        readers: Mapping[str, Reader],
        kept: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        settings: FitSettings,
        reduce: Reduce,
    ) -> None:
        self._readers, self._kept, self._start = readers, kept, start
        self._settings, self._reduce = settings, reduce
        self._reads: dict[str, int] = {}

    def count_reads(self, lockstep: Lockstep) -> None:
        """Note how often each weight is read: one read twice has no single set of inputs."""
        for node in lockstep.graph.nodes:
            name = self._weight_of(lockstep, node)
            if name is not None:
                self._reads[name] = self._reads.get(name, 0) + 1

    @staticmethod
    def _weight_of(lockstep: Lockstep, node: fx.Node) -> str | None:
        if node.op != "call_function" or not any(word in str(node.target) for word in ("conv", "linear")):
            return None
        return lockstep.name_of(node.args[1]) if len(node.args) > 1 else None

    def visit(self, lockstep: Lockstep, node: fx.Node) -> None:
        """Fit the node's tensors before it is computed."""
        name = self._weight_of(lockstep, node)
        if name in self._readers:
            assert name is not None
            self._visit_reader(lockstep, node, name)
        elif self._settings.batch_norm and "batch_norm" in str(node.target):
            self._reestimate(lockstep, node)

    def _visit_reader(self, lockstep: Lockstep, node: fx.Node, name: str) -> None:
        loses = len(self._kept[name]) < self._readers[name].num_columns
        if self._reads[name] > 1:
            if loses and name not in lockstep.changed:
                lockstep.change(name, self._start[name])
            return
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if not loses and not lockstep.differs(source):
            return
        tail = tail_of(lockstep, node) if self._settings.repair else None
        if tail is not None:
            lockstep.compute(tail.other)
        if self._readers[name].fits_outputs:
            self._fit_outputs(lockstep, node, name, tail)
        else:
            self._fit_inputs(lockstep, node, name)

    def _fit_outputs(self, lockstep: Lockstep, node: fx.Node, name: str, tail: Tail | None) -> None:
        reader, kept = self._readers[name], self._kept[name]
        bias_name = lockstep.name_of(node.args[2]) if len(node.args) > 2 else None
        mean_name = _mean_behind(lockstep, node)
        bias = None if bias_name is None else lockstep.tensors[bias_name]
        assert isinstance(node.args[0], fx.Node)
        values = zip(lockstep.current[node.args[0]], lockstep.dense_values(node), strict=True)
        total: CrossMoments | None = None
        for batch, (inputs, wanted) in enumerate(values):
            if tail is not None:
                wanted = wanted + tail.missing(lockstep, batch)
            target = reader.outputs(wanted if bias is None else wanted - _along(bias, wanted, reader.channel_dim))
            part = CrossMoments.of(reader.samples(inputs)[:, kept], target, torch.float32)
            total = part if total is None else total + part
        assert total is not None
        dense = lockstep.tensors[name]
        flat = dense.reshape(len(dense), -1)
        affine = self._settings.intercept and (bias_name is not None or mean_name is not None)
        weight, shift = refit(flat[:, kept], self._summed(total), self._settings.ridge, affine=affine)
        folded = torch.zeros_like(flat)
        folded[:, kept] = weight.to(flat)
        lockstep.change(name, folded.reshape(dense.shape))
        if affine and bias_name is not None:
            assert bias is not None
            lockstep.change(bias_name, bias + shift.to(bias))
        elif affine and mean_name is not None:
            lockstep.change(mean_name, lockstep.tensors[mean_name] - shift.to(dense))

    def _fit_inputs(self, lockstep: Lockstep, node: fx.Node, name: str) -> None:
        """Rebuild the layer's inputs instead of its outputs: one transfer for all positions of a kernel."""
        reader, kept, source = self._readers[name], self._kept[name], node.args[0]
        assert isinstance(source, fx.Node)
        total: CrossMoments | None = None
        for inputs, wanted in zip(lockstep.current[source], lockstep.dense[source], strict=True):
            part = CrossMoments.of(reader.samples(inputs)[:, kept], reader.samples(wanted), torch.float32)
            total = part if total is None else total + part
        assert total is not None
        selector = torch.eye(reader.num_columns, dtype=torch.float64, device=kept.device)[:, kept]
        transfer, _ = refit(selector, self._summed(total), self._settings.ridge, affine=False)
        lockstep.change(name, fold(lockstep.tensors[name], transfer, kept))

    def _summed(self, part: CrossMoments) -> CrossMoments:
        count = self._reduce(torch.tensor(float(part.inputs.count), dtype=torch.float64))
        inputs = Moments(self._reduce(part.inputs.second), self._reduce(part.inputs.first), int(count))
        return CrossMoments(inputs, self._reduce(part.cross), self._reduce(part.target), self._reduce(part.energy))

    def _reestimate(self, lockstep: Lockstep, node: fx.Node) -> None:
        """Statistics of a normalisation layer over all positions of all batches of the changed network."""
        source = node.args[0]
        names = [lockstep.name_of(argument) for argument in node.args[3:5]]
        if not isinstance(source, fx.Node) or not lockstep.differs(source) or None in names:
            return
        sums = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
        for values in lockstep.current[source]:
            rows = values.movedim(1, 0).flatten(1).double()
            for index, part in enumerate((rows.sum(1), rows.square().sum(1), torch.tensor(float(rows.shape[1])))):
                sums[index] = sums[index].to(rows.device) + part.to(rows.device).double()
        first, second, count = (self._reduce(part) for part in sums)
        mean = first / count
        for name, value in zip(names, (mean, (second / count - mean.square()).clamp_min(0)), strict=True):
            assert name is not None
            lockstep.change(name, value)


def _along(bias: Tensor, values: Tensor, dim: int) -> Tensor:
    return bias.reshape([-1 if index == dim % values.ndim else 1 for index in range(values.ndim)])


def _mean_behind(lockstep: Lockstep, node: fx.Node) -> str | None:
    """Running mean of the normalisation that alone reads a layer's output: subtracting from it adds to the output."""
    users = list(node.users)
    if len(users) == 1 and "batch_norm" in str(users[0].target) and users[0].args[0] is node:
        return lockstep.name_of(users[0].args[3])
    return None
