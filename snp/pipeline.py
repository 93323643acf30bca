"""In what order do the stages of a run happen?  dense -> calibrate -> plan -> prune -> fine-tune -> report."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.calibrate import CalibrationCallback, CalibrationSettings, read_moments, write_moments
from snp.core.gram import Moments
from snp.data.base import ImageData
from snp.models import ModelSpec, PreparedModel
from snp.plan import PruningPlan
from snp.planners import Problem
from snp.pruning import Subject, decide, problem_of, realise, subject_of
from snp.report.page import write_report
from snp.report.terminal import print_summary
from snp.runfolder import RunFolder, say
from snp.settings import PruneSettings
from snp.tracking import close_loggers, log_results, quiet_libraries
from snp.training_recipe import TrainingRecipe
from snp.weights import fingerprint, read_metadata, read_weights, write_weights
from snp.workbench import Workbench

__all__ = ["Run", "run"]


def run(**settings: Any) -> dict[str, Any]:
    """All stages of one run; the keywords are the fields of :class:`Run`.

    Returns:
        The content of ``metrics.json``.
    """
    quiet_libraries()
    job = Run(**settings)
    prepared = job.dense_network()
    subject = job.analyse(prepared)
    problem = problem_of(subject, job.calibrate(subject))
    plan = job.plan(subject, problem, prepared)
    small = job.small_network(subject, problem, plan)
    job.fine_tune(small)
    job.report()
    return job.folder.metrics


@dataclass(eq=False)
class Run:
    """The typed settings of a run, and its stages.

    Attributes:
        model: which network, and where its weights are.
        data: which samples.
        prune: what is cut.
        calibration: what is measured.
        dense: how the dense network is trained where its weights do not fit the data.
        finetune: how the pruned network is trained; 0 epochs skip it.
        trainer: makes a Lightning trainer from further keywords.
        logger: makes loggers from a folder and a plain config.
        seed: of everything random.
        run_dir: where artefacts go.
        cache_dir: where dense weights and moments are looked for and left for other runs; None means ``run_dir``.
        config: all settings as plain values, for loggers.
        is_multirun: this run is one of several in one process.
    """

    model: ModelSpec
    data: ImageData
    prune: PruneSettings
    calibration: CalibrationSettings
    dense: TrainingRecipe
    finetune: TrainingRecipe
    trainer: Callable[..., Trainer]
    logger: Callable[..., list[Logger]]
    seed: int
    run_dir: str
    cache_dir: str | None
    config: Mapping[str, Any]
    is_multirun: bool = False

    def __post_init__(self) -> None:
        seed_everything(self.seed, workers=True, verbose=False)
        self.folder = RunFolder(self.run_dir)
        self.cache = Path(self.cache_dir) if self.cache_dir else self.folder.path
        self.cache.mkdir(parents=True, exist_ok=True)
        self.loggers = self.logger(run_dir=self.folder.path, config=dict(self.config))
        self.bench = Workbench(self.data, self.trainer, self.loggers, self.folder)
        num_processes = self.bench.trainer().world_size
        if self.is_multirun and num_processes > 1:
            raise ValueError(
                f"trainer: {num_processes} processes do not work inside a multirun (-m), where every process would start "
                "the whole sweep again; use trainer=auto, or start every run as a command of its own"
            )

    def dense_network(self) -> PreparedModel:
        """The dense network with fitting weights, trained first where there are none, and its score."""
        prepared = self.model.prepare(
            self.data.num_classes, self.data.image_size, trains_from_scratch=self.data.trains_from_scratch
        )
        say(prepared.reason)
        self.data.configure(
            prepared.image_size, prepared.mean, prepared.std, prepared.interpolation, prepared.crop_fraction
        )
        if prepared.weights in ("random", "backbone"):
            self._train_dense(prepared.model)
        prepared.model.eval()
        self.bench.score("dense", prepared.model)
        return prepared

    def _train_dense(self, model: nn.Module) -> None:
        path = self.cache / "dense.safetensors"
        mark = fingerprint(model, self.dense, self._data_identity(), self.seed)
        if read_metadata(path).get("fingerprint") == mark:
            say(f"the dense weights of an earlier run are used: {path}")
            read_weights(model, path)
        elif self.dense.epochs == 0:
            say("dense.epochs=0: the dense network stays untrained")
        else:
            self.bench.fit(model, self.dense)
            rank_zero_only(write_weights)(model, path, {"fingerprint": mark})

    def _data_identity(self) -> str:
        return repr((type(self.data).__name__, self.config.get("data"), self.data.format))

    def analyse(self, prepared: PreparedModel) -> Subject:
        """Find the groups of the dense network."""
        subject = subject_of(prepared.model, self.bench.example(2), self.prune)
        units = sum(group.num_units for group in subject.groups)
        say(f"{len(subject.groups)} groups with {units} units can be cut")
        return subject

    def calibrate(self, subject: Subject) -> dict[str, Moments]:
        """Moments of the calibration samples, measured, or taken from an earlier run of the very same facts."""
        path = self.cache / "moments.safetensors"
        mark = fingerprint(
            subject.model, self._data_identity(), self.calibration, self.seed, tuple(sorted(subject.readers))
        )
        found = read_moments(path, mark)
        if found is None:
            moments, facts = self._measure(subject)
            metadata = {name: str(value) for name, value in facts.items()} | {"fingerprint": mark}
            rank_zero_only(write_moments)(moments, path, metadata)
        else:
            say(f"the moments of an earlier run are used: {path}")
            moments, facts = found
        self.folder.record(
            {
                "time/calibrate_s": float(facts["calibrate_s"]),
                "time/forward_s": float(facts["forward_s"]),
                "calibration/samples": int(facts["samples"]),
                "calibration/reused": found is not None,
            }
        )
        return moments

    def _measure(self, subject: Subject) -> tuple[dict[str, Moments], dict[str, Any]]:
        # The first pass measures nothing: it is the yardstick for the cost of the second.
        plain, full = (CalibrationCallback(readers, self.calibration) for readers in ({}, subject.readers))
        for callback in (plain, full):
            self.bench.forward(subject.model, self.calibration.samples, self.seed, callback)
        return full.moments, {"forward_s": plain.seconds, "calibrate_s": full.seconds, "samples": full.samples}

    def plan(self, subject: Subject, problem: Problem, prepared: PreparedModel) -> PruningPlan:
        """Decide on the first process and tell the others: last bits of a factorisation may differ between them."""
        started, text = time.perf_counter(), ""
        if rank_zero_only.rank == 0:
            decision = decide(subject, problem, self.prune, samples=self.folder.metrics["calibration/samples"])
            decision.plan.with_recipe(prepared.recipe).save(self.folder.path / "plan.json")
            self.folder.write_variance(subject.groups, decision.selection)
            text = decision.plan.to_json()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            box = [text]
            torch.distributed.broadcast_object_list(box, src=0)
            text = box[0]
        plan = PruningPlan.from_json(text)
        self.folder.record(
            {
                "time/plan_s": time.perf_counter() - started,
                "prune/target_var": self.prune.target_var,
                "prune/threshold": plan.settings["level"],
            }
        )
        return plan

    def small_network(self, subject: Subject, problem: Problem, plan: PruningPlan) -> nn.Module:
        """Surgery with the self-check at its end, and the score of the small network."""
        started = time.perf_counter()
        small, check = realise(subject, problem, plan, self.prune)
        self.folder.record({"time/prune_s": time.perf_counter() - started, "prune/self_check": check})
        rank_zero_only(write_weights)(small, self.folder.path / "pruned.safetensors")
        self.bench.score("pruned", small)
        return small

    def fine_tune(self, small: nn.Module) -> None:
        """Train the small network; ``finetune.epochs=0`` skips it."""
        if self.finetune.epochs == 0:
            return
        started, tuned = time.perf_counter(), copy.deepcopy(small)
        self.bench.fit(tuned, self.finetune)
        self.folder.record({"time/finetune_s": time.perf_counter() - started})
        rank_zero_only(write_weights)(tuned, self.folder.path / "finetuned.safetensors")
        self.bench.score("finetuned", tuned)

    @rank_zero_only
    def report(self) -> None:
        """Page, figures, loggers, and the table on the terminal."""
        write_report(self.folder.path)
        numbers = {name: value for name, value in self.folder.metrics.items() if not isinstance(value, str)}
        log_results(self.loggers, numbers, sorted((self.folder.path / "figures").glob("*.png")))
        close_loggers(self.loggers)
        print_summary(self.folder.metrics, self.folder.path)
