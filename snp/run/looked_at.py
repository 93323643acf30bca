"""What is said of the samples, and what of them is refused, before hours pass?"""

from __future__ import annotations

from snp.data.loading import SampleData
from snp.data.overlaps import doubts_of
from snp.fit.preparation import refuse_few_samples
from snp.run.folder import is_first_process, log
from snp.run.refusals import refuse_few
from snp.settings import PruneSettings

__all__ = ["look_at_samples"]


def look_at_samples(
    data: SampleData, num_asked: int, seed: int, settings: PruneSettings, num_processes: int
) -> tuple[str, ...]:
    """As many calibration samples as asked for?  And what processes cannot share is refused.

    Args:
        data: configured for the network.
        num_asked: calibration samples.
        seed: of the run.
        settings: of the prune.
        num_processes: of the trainer.

    Returns:
        What a user should know of the samples, which was said.

    Raises:
        ValueError: samples are not as they should be, or too few.
    """
    data.look_at_ends()
    doubts = doubts_of(data) if is_first_process() else ()
    for sentence in doubts:
        log(f"note: {sentence}")
    drawn = data.num_drawn(num_asked)
    if drawn < num_asked:
        log(f"calibration.samples={num_asked}: the training part has {drawn:,}; all of them are taken")
    repeats = data.num_repeats(num_asked, seed)
    refuse_few_samples(settings, drawn - repeats)
    if repeats or drawn < num_asked:
        refuse_few(num_processes, drawn, repeats)
    if repeats:
        log(f"{repeats} of {drawn} calibration samples repeat another, or nearly: left out")
    return doubts
