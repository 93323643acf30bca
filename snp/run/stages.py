"""What happens in each stage of a run?"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.fit.realise import realise
from snp.graph.batches import Batch
from snp.measure.streamed import refuse_streaming
from snp.models import Prepared, Spec
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.pruning import decide, sensitivity_of
from snp.run.cache import Cache
from snp.run.calibrate import CalibrationSettings
from snp.run.decided import write_decision
from snp.run.facts import data_facts, run_facts
from snp.run.folder import RunFolder, folder_at, log
from snp.run.processes import OVER_PROCESSES, copy_from_first, from_first
from snp.run.refusals import refuse_processes, refuse_seed, refuse_strangers
from snp.run.trainer import JobTrainer
from snp.run.training.recipe import TrainingRecipe
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from snp.weights import write_weights

__all__ = ["Run"]


@dataclass(eq=False)
class Run:
    """The typed settings of a run, and its stages.

    Attributes:
        model: which network, and where its weights are.
        data, prune: which samples, and what is cut.
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

    model: Spec
    data: SampleData
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
        refuse_seed(self.seed)
        refuse_strangers(self.model.reads, self.data.holds)
        seed_everything(self.seed, workers=True, verbose=False)
        self.folder = RunFolder(self.run_dir)
        cache = folder_at(self.cache_dir, "cache_dir") if self.cache_dir else self.folder.path
        self.cache = Cache(cache, self.data, self.config["data"], self.seed)
        self.facts = run_facts(self.config)
        self.loggers = self.logger(run_dir=self.folder.path, config=dict(self.config))
        self.lightning = JobTrainer(self.data, self.trainer, self.loggers, self.folder)
        refuse_processes(self.lightning.trainer().world_size, self.calibration.samples, self.is_multirun)
        if self.calibration.streamed:
            refuse_streaming(self.prune, self.lightning.trainer().world_size)

    def prepared(self) -> Prepared:
        """The network as it is built, with the weights that can be had, and data that fit it."""
        prepared: Prepared = self.model.prepare(**self.data.requirements)
        self.data.configure(**prepared.format)
        return prepared

    def dense_network(self) -> Prepared:
        """The dense network with fitting weights, trained first where there are none, and its score."""
        prepared = self.prepared()
        log(prepared.reason)
        self.facts |= {"model": self.model.name, "weights": prepared.reason, "data": data_facts(self.data)}
        self.data.calibration_dataloader(self.calibration.samples, self.seed)  # refuses too many before hours pass
        if prepared.weights in ("random", "backbone"):
            model = prepared.model
            self.cache.dense_weights(model, self.dense, lambda: self.lightning.fit(model, self.dense))
        prepared.model.eval()
        self.lightning.score("dense", prepared.model)
        return prepared

    def analyse(self, prepared: Prepared) -> Subject:
        """Find the groups of the dense network."""
        subject = subject_of(prepared.model, self.lightning.example(2), self.prune)
        units = sum(group.num_units for group in subject.groups)
        log(f"{len(subject.groups)} groups with {units} units can be cut")
        return subject

    def calibrate(self, subject: Subject) -> Mapping[str, Moments]:
        """Moments of the calibration samples, measured, or taken from an earlier run of the very same facts."""
        moments: Mapping[str, Moments]
        if self.calibration.streamed:
            moments, facts = self.lightning.streamed_moments(subject, self.calibration, self.seed)
        else:
            moments, facts = self.cache.moments(
                subject, self.calibration, lambda: self.lightning.measured_moments(subject, self.calibration, self.seed)
            )
        if isinstance(self.data, TextData):
            self.folder.record(self.data.sources())
        self.folder.record(
            {
                "time/calibrate_s": float(facts["calibrate_s"]),
                "time/forward_s": facts["forward_s"] and float(facts["forward_s"]),
                "calibration/samples": int(facts["samples"]),
                "calibration/reused": facts["reused"],
            }
        )
        return moments

    def inputs_again(self, subject: Subject) -> list[Batch]:
        """The calibration inputs for stages that look at more than moments, with the model on their device."""
        if not (self.prune.is_sequential or self.prune.needs_sensitivity):
            return []
        inputs = self.lightning.calibration_inputs(self.calibration.samples, self.seed)
        subject.to(self.lightning.device)
        return inputs

    def sensitivity(self, subject: Subject, inputs: list[Batch]) -> dict[str, Tensor]:
        """How much the output moves with an error at each layer, where the choice of units asks for it."""
        if not self.prune.needs_sensitivity:
            return {}
        started = time.perf_counter()
        found = sensitivity_of(subject, inputs, self.prune, OVER_PROCESSES)
        self.folder.record({"time/sensitivity_s": time.perf_counter() - started})
        return {name: matrix.cpu() for name, matrix in found.items()}

    def plan(self, subject: Subject, problem: Problem, prepared: Prepared) -> PruningPlan:
        """Which units stay, the same on all processes; results of an earlier run in this folder go."""
        started = time.perf_counter()
        plan = PruningPlan.from_json(from_first(lambda: self._decide(subject, problem, prepared)))
        self.folder.record(
            {
                "time/plan_s": time.perf_counter() - started,
                "prune/target_var": self.prune.target_var,
                "prune/threshold": plan.settings["level"],
            }
        )
        return plan

    def _decide(self, subject: Subject, problem: Problem, prepared: Prepared) -> str:
        decision = decide(subject, problem, self.prune, samples=self.folder.metrics["calibration/samples"])
        self.folder.begin_results()
        plan = decision.plan.with_recipe(prepared.recipe)
        self.folder.write_data(self.config["data"], prepared.format, self.seed)
        write_decision(self.folder, plan, decision.selection, problem, subject.groups, self.prune, self.facts)
        return plan.to_json()

    def small_network(self, subject: Subject, problem: Problem, plan: PruningPlan, inputs: list[Batch]) -> nn.Module:
        """Fit and surgery with the self-check at their end, and the score of the small network."""
        started = time.perf_counter()
        result = realise(subject, problem, plan, self.prune, inputs, OVER_PROCESSES, share=self.calibration.streamed)
        self.lightning.forget_moments()
        small = result.model.to("cpu")
        copy_from_first(small)
        self.folder.record(
            {
                "time/prune_s": time.perf_counter() - started,
                "prune/self_check": result.check,
                "prune/fitted_samples": result.fitted_samples,
            }
        )
        rank_zero_only(write_weights)(small, self.folder.path / "pruned.safetensors")
        self.lightning.score("pruned", small)
        return small

    def fine_tune(self, small: nn.Module, dense: nn.Module) -> None:
        """Train the small network, by the dense one where it distils; ``finetune.epochs=0`` skips it."""
        if self.finetune.epochs == 0:
            return
        # Seeded again, so that it goes the same way whether dense weights were trained or found.
        seed_everything(self.seed, workers=True, verbose=False)
        started, tuned = time.perf_counter(), copy.deepcopy(small)
        self.lightning.fit(tuned, self.finetune, dense)
        self.folder.record({"time/finetune_s": time.perf_counter() - started})
        rank_zero_only(write_weights)(tuned, self.folder.path / "finetuned.safetensors")
        self.lightning.score("finetuned", tuned)
