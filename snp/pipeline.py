"""In what order do the stages of a run happen?  dense -> calibrate -> plan -> prune -> fine-tune -> report."""

from __future__ import annotations

from typing import Any

from snp.pruning import problem_of
from snp.stages import Run
from snp.tracking import quiet_libraries

__all__ = ["run"]


def run(**settings: Any) -> dict[str, Any]:
    """All stages of one run; the keywords are the fields of :class:`Run`.

    Returns:
        The content of ``metrics.json``.
    """
    unknown = sorted(settings.keys() - Run.__dataclass_fields__.keys())
    if unknown:
        raise ValueError(f"there is no option {', '.join(unknown)}; --help shows which there are")
    quiet_libraries()
    job = Run(**settings)
    prepared = job.dense_network()
    subject = job.analyse(prepared)
    moments = job.calibrate(subject)
    inputs = job.inputs_again(subject)
    problem = problem_of(subject, moments, job.sensitivity(subject, inputs))
    plan = job.plan(subject, problem, prepared)
    small = job.small_network(subject, problem, plan, inputs)
    job.fine_tune(small)
    job.report()
    return job.folder.metrics
