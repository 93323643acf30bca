"""How does a run tune its small network on the dense one's outputs, where ``prune.reconstruct=tuned`` asks for it?

The first process's work, on all calibration samples; the others wait and get its weights. It is a stage of its own,
with its own weights and scores beside those of the closed form: it trains, if without labels.
"""

from __future__ import annotations

import time

from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.fit.tuning import Tuned, tune
from snp.library import load
from snp.measure.exact import plain_arithmetic
from snp.measure.outputs import objective_of
from snp.models.sources.weights import fingerprint, read_metadata, write_weights
from snp.run.folder import log
from snp.run.processes import agreed, copy_from_first, on_first
from snp.run.results import begin_stage, drop
from snp.run.stages import Run
from snp.run.training.checkpoints import Checkpoints

__all__ = ["tuned_network"]

_FILE = "tuned.safetensors"


def tuned_network(job: Run, small: nn.Module, dense: nn.Module) -> nn.Module:
    """The small network after tuning; as it is where nothing asks for it.

    Args:
        job: the run.
        small: on the CPU, equal on all processes; not changed.
        dense: the network it comes from.

    Returns:
        On the CPU, equal on all processes.
    """
    mark = job.mark("tuned", fingerprint(small))
    checkpoints = Checkpoints(job.folder.path / "checkpoints", "tune", mark)
    if not job.prune.is_tuned:
        drop(job.folder.path, "tuned")
        checkpoints.forget()
        return small
    if agreed(job.finished.found("tuned", mark)):
        checkpoints.forget()
        return load(job.folder.path, dense, weights="tuned")
    begin_stage(job.folder.path, "tuned", "finetuned")
    with plain_arithmetic():
        found = on_first(lambda: _tuned(job, small, dense, checkpoints))
    result = found.model if found else small
    copy_from_first(result)
    path = job.folder.path / _FILE
    rank_zero_only(write_weights)(result, path, {"plan": read_metadata(path.with_name("pruned.safetensors"))["plan"]})
    job.lightning.score("tuned", result)
    job.finished.note("tuned", mark, (_FILE,))
    checkpoints.forget()
    return result


def _tuned(job: Run, small: nn.Module, dense: nn.Module, checkpoints: Checkpoints) -> Tuned:
    started, device = time.perf_counter(), job.lightning.device
    inputs = job.lightning.calibration_inputs(job.calibration.samples, job.seed)
    dense, small = dense.to(device).eval(), small.to(device).eval()
    inputs = [batch.beside(dense) for batch in inputs]
    objective = objective_of(dense, inputs, job.prune.objective)
    progress, keeper = job.lightning.progress(), checkpoints.of_tuning
    found = tune(small, dense, inputs, objective, job.prune, progress, keeper)
    for model in (dense, small, found.model):
        model.to("cpu")
    log(str(found))
    job.folder.record(
        {
            "time/tune_s": time.perf_counter() - started,
            "tune/epoch": found.epoch,
            "tune/optimizer": found.steps.optimizer,
            "tune/rate": found.steps.rate,
            "tune/epochs": len(found.distances) - 1,
            "tune/samples": found.num_tuned,
            "tune/held_back": found.num_held,
            "tune/distance_before": found.distances[0],
            "tune/distance_after": found.distances[found.epoch],
        }
    )
    return found
