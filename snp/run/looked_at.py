"""What is said of the samples, and what of them is refused, before hours pass?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snp.data.overlaps import doubts_of
from snp.fit.preparation import refuse_few_samples
from snp.run import refusals
from snp.run.folder import is_first_process, log

if TYPE_CHECKING:
    from snp.run.stages import Run

__all__ = ["look_at_samples"]


def look_at_samples(job: Run) -> None:
    """As many calibration samples as asked for?  And what processes cannot share is refused.

    Raises:
        ValueError: samples are not as they should be, or too few.
    """
    job.data.look_at_ends()
    job.facts["data"]["doubts"] = doubts_of(job.data) if is_first_process() else ()
    for sentence in job.facts["data"]["doubts"]:
        log(f"note: {sentence}")
    asked, drawn = job.calibration.samples, job.data.num_drawn(job.calibration.samples)
    refusals.refuse_best(job.finetune, validates="val" in job.facts["data"])
    if drawn < asked:
        log(f"calibration.samples={asked}: the training part has {drawn:,}; all of them are taken")
    repeats = job.data.num_repeats(asked, job.seed)
    refuse_few_samples(job.prune, drawn - repeats)
    if repeats or drawn < asked:
        refusals.refuse_few(job.lightning.trainer().world_size, drawn, repeats)
    if repeats:
        log(f"{repeats} of {drawn} calibration samples repeat another, or nearly: left out")
