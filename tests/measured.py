"""What does a network's calibration give?  The moments of some batches, as the library measures them."""

from collections.abc import Iterable

import torch

from snp.core.gram import Moments
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.surgery.subject import Subject


def measured_moments(subject: Subject, batches: Iterable[Batch]) -> dict[str, Moments]:
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for batch in batches:
            batch.call(subject.model)
    return collector.moments
