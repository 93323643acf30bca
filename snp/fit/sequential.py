"""Which weights give the dense network's values on what the pruned network really computes?

Layers are fitted in execution order. Each reader's inputs come from the network as it is pruned so far, its target
from the dense network, so that errors do not pile up. Where a reader's output is added to a residual stream, the
target includes the error that the stream has gathered so far (error repair). Where a rectifier comes next, what it cuts
off need not be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, fx

from snp.core.sums import ALONE, Sums
from snp.fit.batch_norm import is_norm, reestimate
from snp.fit.behind_layer import Tail, tail_of
from snp.fit.behind_softmax import fit_probabilities, logits_of
from snp.fit.layer import LayerFit
from snp.fit.reads import Read, reads_of
from snp.fit.rows import batch_size_for, equal_batches
from snp.fit.skipped import foreseen
from snp.fit.two_networks import TwoNetworks
from snp.fit.within_memory import networks_within
from snp.graph.batches import Batch
from snp.graph.residual import ResidualBlock, gaps_of
from snp.measure.objective import Objective
from snp.measure.readers import Reader
from snp.measure.views import without_mirrored
from snp.plan.progress import Progress
from snp.settings import FitSettings
from snp.surgery.passing import zeroed_writers
from snp.surgery.subject import Subject

__all__ = ["Fits", "ToFit", "fit_in_sequence"]


@dataclass(frozen=True, eq=False)
class Fits:
    """What a fit found.

    Attributes:
        tensors: name -> dense-shaped tensor of everything that changed: weights with zeros in cut columns, biases,
            statistics.
        samples: that there was memory for; of images mirrored ones do not count. 0 without a fit in sequence.
        is_scarce: some layer had too few samples to determine its fit beyond doubt.
    """

    tensors: dict[str, Tensor]
    samples: int = 0
    is_scarce: bool = False


@dataclass(frozen=True, eq=False)
class ToFit:
    """What is fitted.

    Attributes:
        readers: weight name -> how its inputs are read.
        kept: weight name -> Gram columns that stay, for every reader.
        start: gives the weight of a layer folded on the dense network's activations: what fits decay to, and what a
            layer gets that cannot be fitted here, because its weight is read twice.
        silent: name -> dimension and indices that the pruned network does not have although nothing reads them
            (queries, keys).
        removed: blocks that the pruned network does not have.
        objective: what the outputs are; None where nobody has asked.
    """

    readers: Mapping[str, Reader]
    kept: Mapping[str, Tensor]
    start: Callable[[str], Tensor]
    silent: Mapping[str, tuple[int, Tensor]] = field(default_factory=dict)
    removed: Sequence[ResidualBlock] = ()
    objective: Objective | None = None


def fit_in_sequence(
    subject: Subject,
    batches: Sequence[Batch],
    wanted: ToFit,
    settings: FitSettings,
    sums: Sums = ALONE,
    progress: Progress | None = None,
    *,
    mirrored: bool = False,
) -> Fits:
    """Fit every reader whose inputs have changed or lose columns, one after the other.

    Args:
        subject: the dense network.
        batches: inputs on its device.
        wanted: what is fitted.
        settings: how.
        sums: over all processes.
        progress: is told of every reader.
        mirrored: inputs are images, each with its mirrored one behind it (:func:`snp.measure.views.with_mirrored`);
            where there is no memory for all of them the images are fitted on alone.
    """
    fitter, memory = _Fitter(wanted, settings, progress or Progress()), int(settings.memory_gib * 2**30)
    size = batch_size_for(sum(batch.size for batch in batches))
    alike = equal_batches(batches, size)
    networks = networks_within(memory, subject, alike, fitter, sums)
    samples = networks.limit(memory)
    is_whole = samples == sum(batch.size for batch in alike) and networks.batch_size == alike[0].size
    if mirrored and not is_whole:
        # Of the batches as they came: where these are split anew an odd one may part an image from its mirror image.
        alike = equal_batches([without_mirrored(batch) for batch in batches], max(1, size // 2))
        networks = networks_within(memory, subject, alike, fitter, sums)
        samples = networks.limit(memory)
    elif mirrored:
        samples //= 2
    networks.zero_rows(wanted.silent)
    for name, zeros in zeroed_writers(subject.model, wanted.removed).items():
        networks.change(name, zeros)
    fitter.run(networks)
    return Fits(dict(sorted(networks.changed.items())), samples, fitter.is_scarce)


class _Fitter:
    def __init__(self, wanted: ToFit, settings: FitSettings, progress: Progress) -> None:
        self._readers, self._kept, self._start, self._progress = wanted.readers, wanted.kept, wanted.start, progress
        self._settings, self._reestimates = settings, settings.batch_norm == "reestimate"
        self._reads: dict[str, int] = {}
        self.is_scarce = False
        self._removed, self._passed = wanted.removed, frozenset[fx.Node]()
        self._objective = wanted.objective
        self._logits: fx.Node | None = None

    def fits_at(self, networks: TwoNetworks, node: fx.Node) -> bool:
        """May a tensor change at the node's turn?"""
        if self._reestimates and is_norm(node):
            return True
        return any(read.weight in self._readers for read in reads_of(networks, node))

    def run(self, networks: TwoNetworks) -> None:
        """Fit everything, in the order in which it is computed."""
        gaps = gaps_of(networks.exported, self._removed)
        networks.aims, networks.exits, self._passed = gaps.aims, gaps.exits, gaps.nodes
        self._count_reads(networks)
        if self._settings.softmax and self._settings.intercept and self._settings.ridge is None:
            self._logits = logits_of(networks, self._objective)
        networks.run()

    def _count_reads(self, networks: TwoNetworks) -> None:
        """Note how often each weight is read: one read twice has no single set of inputs.

        One that is read in a form that is not known here has none: it is folded as its moments say.
        """
        for node in networks.graph.nodes:
            for read in reads_of(networks, node):
                self._reads[read.weight] = self._reads.get(read.weight, 0) + 1
        for name in self._readers.keys() - self._reads.keys():
            if len(self._kept[name]) < self._readers[name].num_columns:
                networks.change(name, self._start(name))

    def visit(self, networks: TwoNetworks, node: fx.Node) -> None:
        """Fit the node's tensors before it is computed."""
        if node in self._passed:
            return
        for read in reads_of(networks, node):
            if read.weight in self._readers:
                self._visit_reader(networks, node, read)
                self._progress.step()
        if self._reestimates and is_norm(node):
            reestimate(networks, node)

    def _visit_reader(self, networks: TwoNetworks, node: fx.Node, read: Read) -> None:
        name, reader = read.weight, self._readers[read.weight].behind_padding()
        loses = len(self._kept[name]) < reader.num_columns
        if self._reads[name] > 1:
            if loses and name not in networks.changed:
                networks.change(name, self._start(name))
            return
        tail = self._tail(networks, node, reader) if reader.fits_outputs else None
        is_aimed = tail is not None and tail.aim is not None
        if not loses and not is_aimed and not networks.differs(read.source):
            return
        fit = LayerFit(networks, node, read, reader, self._kept[name], self._start if loses else None)
        if not reader.fits_outputs:
            self.is_scarce |= fit.inputs(self._settings)
            return
        if tail is not None and tail.other is not None:
            networks.compute(tail.other)
        is_scarce = fit.outputs(tail, self._settings)
        if node is self._logits and tail is None and not is_scarce:
            fit_probabilities(fit)
        self.is_scarce |= is_scarce

    def _tail(self, networks: TwoNetworks, node: fx.Node, reader: Reader) -> Tail | None:
        """What is done with the outputs of a layer whose outputs can be fitted."""
        # Statistics that are estimated anew later on would move what is aimed at here.
        rectify = self._settings.rectify and not self._reestimates
        tail = tail_of(networks, node, reader.output_dim, repair=self._settings.repair, rectify=rectify)
        return foreseen(networks, tail)
