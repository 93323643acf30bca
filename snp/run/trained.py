"""How do the networks of a run get trained, and what did an earlier start of it leave of them?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.graph.modes import copy_in_modes
from snp.graph.wrappers import evaluated_copy
from snp.library import load
from snp.models import TRAINED_FIRST, Prepared
from snp.models.sources.weights import fingerprint, read_metadata, write_weights
from snp.plan.level import refuse_unreachable
from snp.plan.plan import PruningPlan
from snp.run.folder import log
from snp.run.limits import refuse_no_steps
from snp.run.processes import agreed
from snp.run.results import begin_stage, drop
from snp.run.training.checkpoints import Checkpoints
from snp.run.training.cut_size import cut_size
from snp.run.training.history import forget_curves
from snp.run.training.recipe import TrainingRecipe
from snp.surgery.subject import subject_of

if TYPE_CHECKING:
    from snp.run.stages import Run

__all__ = ["fine_tune", "network_left", "train_dense"]

_TRAINED_BEFORE = "the dense network was trained before"


def train_dense(job: Run, prepared: Prepared) -> None:
    """Train the dense network where its weights do not fit the data and were not trained before."""
    if prepared.weights not in ("random", "backbone"):
        log(prepared.reason)
        forget_curves(job.loggers, "dense")
        return
    model = prepared.model
    job.facts["weights"] = prepared.reason.replace(TRAINED_FIRST, _TRAINED_BEFORE)
    if job.dense.epochs == 0:
        job.facts["weights"] = prepared.reason.replace(f", so {TRAINED_FIRST}", "; dense.epochs=0 leaves it untrained")
        log(job.facts["weights"])

    def train(mark: str) -> None:
        job.facts["weights"] = prepared.reason
        log(prepared.reason)
        num_samples = job.facts["data"].get("train", 0)
        refuse_no_steps(job.lightning.trainer(), job.dense, num_samples, job.data.batch_size)
        _refuse_unreachable(job, model)
        job.lightning.fit(model, job.dense, seed=job.seed, checkpoints=_checkpoints(job, "dense", mark))

    job.folder.record({"cache/dense": job.cache.dense_weights(model, job.dense, train)})
    _checkpoints(job, "dense").forget()


def _refuse_unreachable(job: Run, model: nn.Module) -> None:
    """What shapes alone forbid, before hours of training: nothing can be cut, or never as much as asked for."""
    with torch.random.fork_rng():
        subject = subject_of(evaluated_copy(model), job.lightning.example(2), job.prune)
    refuse_unreachable(subject.costs, subject.groups, job.prune.target, subject.removable)


def network_left(job: Run, prepared: Prepared) -> nn.Module | None:
    """The small network that an earlier start of this very run left, None where it did not come so far."""
    if not agreed(all(job.finished.found(stage, job.mark(stage)) for stage in ("plan", "pruned"))):
        return None
    job.folder.keep_results()
    job.folder.write_facts(job.facts)  # other settings of what follows may be asked for now
    return load(job.folder.path, prepared.model)


def fine_tune(job: Run, small: nn.Module, dense: nn.Module) -> None:
    """Train the small network, by the dense one where it distils; ``finetune.epochs=0`` skips it."""
    if job.finetune.epochs == 0:
        drop(job.folder.path, "finetuned")
        forget_curves(job.loggers, "finetune")
        return
    mark = job.mark("finetuned", job.finetune, fingerprint(small))
    if not agreed(job.finished.found("finetuned", mark)):
        begin_stage(job.folder.path, "finetuned")
        tuned = copy_in_modes(small)
        seconds = job.lightning.fit(tuned, _recipe(job, dense), dense, job.seed, _checkpoints(job, "finetune", mark))
        job.folder.record({"time/finetune_s": seconds})
        made_by = read_metadata(job.folder.path / "pruned.safetensors")
        metadata = {name: made_by[name] for name in ("plan",) if name in made_by}
        rank_zero_only(write_weights)(tuned, job.folder.path / "finetuned.safetensors", metadata)
        job.lightning.score("finetuned", tuned)
        job.finished.note("finetuned", mark, ("finetuned.safetensors",))
    _checkpoints(job, "finetune").forget()


def _recipe(job: Run, dense: nn.Module) -> TrainingRecipe:
    """How the small network is trained, its rate by the size of the cut where that is asked for."""
    recipe = job.finetune
    if recipe.by_cut:
        size = cut_size(dense, PruningPlan.load(job.folder.path / "plan.json"))
        recipe = replace(recipe, learning_rate=size * recipe.learning_rate)
        job.folder.record({"finetune/cut_size": size})
    job.folder.record({"finetune/learning_rate": recipe.learning_rate})
    return recipe


def _checkpoints(job: Run, stage: str, mark: str = "") -> Checkpoints:
    return Checkpoints(job.folder.path / "checkpoints", stage, mark)
