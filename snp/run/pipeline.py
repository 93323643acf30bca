"""In what order do the stages of a run happen?  Train, calibrate, plan, prune, tune, fine-tune, report."""

from __future__ import annotations

import io
import logging
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.models import Prepared
from snp.plan.level import refuse_unreachable
from snp.report.findings import findings
from snp.report.page import write_report
from snp.report.record import read_record
from snp.report.terminal import print_summary
from snp.run.facts import peak_memory_bytes
from snp.run.folder import folder_at, is_first_process, locked, log, tell
from snp.run.loggers import close_loggers, quiet_libraries
from snp.run.processes import destroy_group
from snp.run.pruned import small_network
from snp.run.root import root_options
from snp.run.speed import compare_speed, latency_table
from snp.run.stages import Run
from snp.run.stopping import Stopped
from snp.run.tracking import track
from snp.run.trained import fine_tune, network_left, train_dense
from snp.run.tuned import tuned_network
from snp.surgery.inspection import inspection_of
from snp.surgery.subject import survey

__all__ = ["run"]


def run(**settings: Any) -> dict[str, Any]:
    """All stages of one run; the keywords are the fields of :class:`Run`.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ValueError: there is no such option, or it has no such value.
    """
    unknown = sorted(settings.keys() - Run.__dataclass_fields__.keys())
    if unknown:
        raise ValueError(f"there is no option {', '.join(unknown)}; --help shows which there are")
    settings |= root_options(settings)
    quiet_libraries()
    with locked(folder_at(settings["run_dir"], "run_dir")):
        job = Run(**settings)
        if job.prune.dry_run:
            _list_groups(job)
            return {}
        try:
            return _stages(job)
        except Stopped:
            job.lightning.end_processes()
            raise
        except Exception:
            if job.is_multirun:  # the next run would write into this one's
                close_loggers(job.loggers, has_failed=True)
            raise


def _stages(job: Run) -> dict[str, Any]:
    """One after the other; those that an earlier start of this run finished are taken as they are."""
    prepared = job.dense_network()
    job.folder.begin(job.facts)
    train_dense(job, prepared)
    job.score_dense(prepared)
    small = network_left(job, prepared)
    if small is None:
        small = _pruned(job, prepared)
    small = tuned_network(job, small, prepared.model)
    fine_tune(job, small, prepared.model)
    destroy_group()
    _report(job)
    return job.folder.metrics


def _pruned(job: Run, prepared: Prepared) -> nn.Module:
    """The small network, from calibration on."""
    subject = job.analyse(prepared)
    refuse_unreachable(subject.costs, subject.groups, job.prune.target, subject.removable)
    moments = job.calibrate(subject)
    small = small_network(job, prepared, subject, moments, latency_table(job, subject))
    compare_speed(job, subject, small)
    job.finished.note("pruned", job.mark("pruned"), ("plan.json", "pruned.safetensors"))
    return small


@rank_zero_only
def _report(job: Run) -> None:
    """Page, figures, loggers, and the table on the terminal."""
    job.folder.record(peak_memory_bytes())
    write_report(job.folder.path)
    said = job.facts["data"]["doubts"]  # when the data were looked at
    for sentence in findings(read_record(job.folder.path)):
        if sentence not in said:
            log(f"note: {sentence.replace('`', '')}")
    track(job.loggers, job.folder.path)
    close_loggers(job.loggers)
    print_summary(job.folder.metrics, job.folder.path)
    logged = io.StringIO()
    print_summary(job.folder.metrics, job.folder.path, logged)
    logging.getLogger("snp").info(logged.getvalue())


def _list_groups(job: Run) -> None:
    """A dry run: every group, written and printed; nothing is trained, and results in the folder stay."""
    model = job.prepared().model.eval()
    found = inspection_of(model, survey(model, job.lightning.example(2), job.prune))
    if is_first_process():
        found.save(job.folder.path)
        tell(f"\n{found}\nRun folder: {job.folder.path}")
