"""Which weights give the dense network's values on what the pruned network really computes?

Layers are fitted in execution order. Each reader's inputs come from the network as it is pruned so far, its target
from the dense network, so that errors do not pile up. Where a reader's output is added to a residual stream, the
target includes the error that the stream has gathered so far (error repair). Where a rectifier comes next, what it cuts
off need not be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from snp.graph.readers import Reader
from snp.inputs import num_samples
from snp.layerfit import FitSettings, LayerFit, reestimate
from snp.leastsquares import HOLD_BACK_ONE_IN, Reduce
from snp.lockstep import Lockstep, equal_batches
from snp.tail import tail_of

__all__ = ["FitSettings", "Fits", "fit_in_sequence"]

_LARGEST_BATCH = 128


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
    start: Callable[[str], Tensor],
    settings: FitSettings,
    reduce: Reduce = lambda tensor: tensor,
    silent: Mapping[str, Tensor] | None = None,
) -> Fits:
    """Fit every reader whose inputs have changed or lose columns, one after the other.

    Args:
        model: the dense network in evaluation mode.
        batches: inputs on the model's device.
        readers: weight name -> how its inputs are read.
        kept: weight name -> Gram columns that stay, for every reader.
        start: gives the folded weight of a layer that cannot be fitted here, because its weight is read twice.
        settings: see :class:`FitSettings`.
        reduce: adds a tensor up over processes.
        silent: name -> rows that the pruned network does not have although nothing reads them (queries, keys).

    Returns:
        Weights with zeros in cut columns, biases, statistics.
    """
    fitter = _Fitter(readers, kept, start, settings, reduce)
    total = sum(num_samples(batch) for batch in batches)
    # At least four batches, so that one in four can be held back.
    size = max(1, min(_LARGEST_BATCH, total // HOLD_BACK_ONE_IN))
    lockstep = Lockstep(model, equal_batches(batches, size), fitter.visit)
    lockstep.silence(silent or {})
    samples = lockstep.limit(int(settings.memory_gib * 2**30))
    fitter.count_reads(lockstep)
    lockstep.run()
    return Fits({name: lockstep.tensors[name] for name in sorted(lockstep.changed)}, samples)


class _Fitter:
    def __init__(
        self,
        readers: Mapping[str, Reader],
        kept: Mapping[str, Tensor],
        start: Callable[[str], Tensor],
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
            reestimate(lockstep, node, self._reduce)

    def _visit_reader(self, lockstep: Lockstep, node: fx.Node, name: str) -> None:
        loses = len(self._kept[name]) < self._readers[name].num_columns
        if self._reads[name] > 1:
            if loses and name not in lockstep.changed:
                lockstep.change(name, self._start(name))
            return
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if not loses and not lockstep.differs(source):
            return
        # Statistics that are estimated anew later on would move what is aimed at here.
        rectify = self._settings.rectify and not self._settings.batch_norm
        tail = tail_of(lockstep, node, repair=self._settings.repair, rectify=rectify)
        if tail is not None and tail.other is not None:
            lockstep.compute(tail.other)
        fit = LayerFit(lockstep, node, name, self._readers[name], self._kept[name])
        if self._readers[name].fits_outputs:
            fit.outputs(tail, self._settings, self._reduce)
        else:
            fit.inputs(self._settings, self._reduce)
