"""In which form do two networks run side by side, so that what a fit looks at has room in memory?

Nothing behind the last layer that is fitted is computed: of a language model logits would be most of the memory, and a
good part of the time. Where that is asked for, values inside a block are computed again instead of being kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import fx

from snp.core.sums import Sums
from snp.fit.recomputed import RecomputedNetworks
from snp.fit.rows import equal_batches
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.surgery.subject import Subject

__all__ = ["Fitter", "networks_within"]

_Networks = TypeVar("_Networks", bound=TwoNetworks)


class Fitter(Protocol):
    """What changes tensors of one of the networks on the way."""

    def visit(self, networks: TwoNetworks, node: fx.Node) -> None:
        """Fit the node's tensors before it is computed."""
        ...

    def fits_at(self, networks: TwoNetworks, node: fx.Node) -> bool:
        """May a tensor change at the node's turn?"""
        ...


def networks_within(memory: int, subject: Subject, alike: Sequence[Batch], fitter: Fitter, sums: Sums) -> TwoNetworks:
    """Both networks; block by block where that is asked for and there is no memory for all values at once.

    Args:
        memory: bytes.
        subject: the dense network; its blocks are those that are asked for.
        alike: inputs of one shape. Batches of which there is no memory for one block are split.
        fitter: ends the run at the last node where it may change a tensor.
        sums: over all processes.
    """
    model, exports, visits, blocks = subject.model, subject.exports, subject.visits, subject.blocks
    whole = _ending(TwoNetworks(model, alike, fitter.visit, sums, exports, visits), fitter)
    if not blocks or whole.bytes_per_batch * len(alike) <= memory:
        return whole

    def recomputed(batches: Sequence[Batch]) -> RecomputedNetworks:
        return _ending(RecomputedNetworks(model, batches, fitter.visit, sums, exports, visits, blocks=blocks), fitter)

    found = recomputed(alike)
    size = found.fitting_size(memory)
    return found if size >= alike[0].size else recomputed(equal_batches(alike, size))


def _ending(networks: _Networks, fitter: Fitter) -> _Networks:
    for node in networks.graph.nodes:
        if fitter.fits_at(networks, node):
            networks.end = node
    return networks
