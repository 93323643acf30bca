"""What does a network compute once, however many samples there are?  It counts for each sample in full.

A table of position biases, or learned queries that attend to each other before they meet the samples: a sample that
comes alone pays for all of it.
"""

from __future__ import annotations

from itertools import chain

from torch import nn

from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.tracer import Tracer

__all__ = ["count_for_each"]

_NOTABLE = 1e-3  # of all multiply-accumulates: what costs less is shared out among the samples


def count_for_each(model: nn.Module, example: Batch, tracer: Tracer) -> None:
    """Count what depends on no input for each sample in full.

    It runs once however many samples there are. That it does is taken from the graph where it matters and a pass of
    twice the samples costs no more for it: sizes of a batch stand in a graph as numbers, so that what is repeated for
    each sample looks the same. Where samples share inputs they share the cost, too.
    """
    size = tracer.num_samples
    if example.shared or size == 1:
        return
    once, total = _macs(model, tracer)
    if once <= _NOTABLE * total:
        return
    passes = [n * macs_of_batch(model, example.repeated(n)) for n in (size, 2 * size)]
    if abs(2 * passes[0] - passes[1] - once) > _NOTABLE * once:
        return
    tracer.fixed_macs += (size - 1) * tracer.alone_macs
    for name, count in tracer.alone.items():
        tracer.positions[name] += (size - 1) * count
    for call in tracer.calls:
        call.score_macs *= size if call.scores_alone else 1
        call.value_macs *= size if call.value_alone else 1
    tracer.products = [(macs * size if alone else macs, labels, alone) for macs, labels, alone in tracer.products]


def _macs(model: nn.Module, tracer: Tracer) -> tuple[int, int]:
    """Multiply-accumulates of the example batch that depend on no input, and all."""
    sizes = {name: tensor.numel() for name, tensor in chain(model.named_parameters(), model.named_buffers())}
    once, total = (
        fixed + sum(count * sizes.get(name, 0) for name, count in part.items())
        for fixed, part in ((tracer.alone_macs, tracer.alone), (tracer.fixed_macs, tracer.positions))
    )
    products = [(macs, alone) for macs, _, alone in tracer.products]
    for call in tracer.calls:
        products += [(call.score_macs, call.scores_alone), (call.value_macs, call.value_alone)]
    return once + sum(macs for macs, alone in products if alone), total + sum(macs for macs, _ in products)
