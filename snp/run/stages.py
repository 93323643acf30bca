"""What happens in each stage of a run?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from torch import nn

from snp.core.deciding import Purpose
from snp.core.gram import Moments
from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.fit.calibration import objective_asked
from snp.measure.exact import plain_arithmetic
from snp.measure.samples import FEW, Samples
from snp.measure.streamed import refuse_streaming
from snp.measure.views import is_mirrored
from snp.models import Prepared, Spec
from snp.models.sources.recipes import FAMILIES
from snp.models.sources.weights import fingerprint
from snp.run import refusals
from snp.run.cache import Cache
from snp.run.calibrate import CalibrationSettings
from snp.run.facts import data_facts, given_weights, run_facts
from snp.run.finished import Finished, mark_of
from snp.run.folder import RunFolder, folder_at, log
from snp.run.hidden import without_secrets
from snp.run.idle import idle_options
from snp.run.limits import refuse_without_samples
from snp.run.looked_at import look_at_samples
from snp.run.processes import from_first
from snp.run.replacing import refuse_other_facts, refuse_replacing
from snp.run.streamed import StreamedMoments
from snp.run.trainer import JobTrainer
from snp.run.training.recipe import TrainingRecipe
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of

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
        trainer, logger: make a Lightning trainer from further keywords, and loggers from a folder and a plain config.
        seed: of everything random.
        run_dir: where artefacts go.
        cache_dir: where dense weights and moments are looked for and left for other runs; None means ``run_dir``.
        config: all settings as plain values, for loggers.
        is_multirun: this run is one of several in one process.
        overwrite: results that other settings left in the folder give way.
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
    overwrite: bool = False

    def __post_init__(self) -> None:
        refusals.refuse_seed(self.seed)
        refusals.refuse_strangers(self.model.reads, self.data.holds)
        if not self.overwrite and not self.prune.dry_run:
            refuse_replacing(Path(self.run_dir), without_secrets(self.config))
        seed_everything(self.seed, workers=True, verbose=False)
        self.folder = RunFolder(self.run_dir)
        cache = folder_at(self.cache_dir, "cache_dir") if self.cache_dir else self.folder.path
        self.facts, self.finished = run_facts(self.config), Finished(self.folder)
        self.loggers = self.logger(run_dir=self.folder.path, config=dict(self.config))
        self.streamed = StreamedMoments(self.folder.path)
        self.lightning = JobTrainer(self.data, self.trainer, self.loggers, self.folder)
        trainer = self.lightning.trainer()
        precision, processes = str(trainer.precision), trainer.world_size
        refusals.refuse_precision(precision)
        asked = {**getattr(self.trainer, "keywords", {}), "processes": processes}
        family = FAMILIES.code(self.model.family)
        self.cache = Cache(cache, self.data, self.config["data"], self.seed, precision, asked, family)
        refusals.refuse_processes(processes, self.calibration.samples, self.is_multirun)
        if self.calibration.streamed:
            refuse_streaming(self.prune)

    def prepared(self) -> Prepared:
        """The network as it is built, with the weights that can be had, and data that fit it."""
        prepared: Prepared = self.model.prepare(**self.data.requirements)
        self.data.configure(**prepared.format)
        return prepared

    def dense_network(self) -> Prepared:
        """The dense network with the weights that can be had, which may be none that fit the data."""
        prepared = self.prepared()
        processes, facts = self.lightning.trainer().world_size, data_facts(self.data)
        facts["contents"] = self.cache.contents
        self.facts["given_weights"] = given_weights(prepared)
        self.facts |= {"model": self.model.name, "weights": prepared.reason, "data": facts, "processes": processes}
        if not self.overwrite:
            refuse_other_facts(self.folder.path, self.facts)
        for sentence in idle_options(self.prune):
            log(f"note: {sentence}")
        asked = self.calibration.samples, self.seed, self.prune
        facts["doubts"] = look_at_samples(self.data, *asked, processes)
        refuse_without_samples(self.lightning.trainer(), self.data, facts, self.finetune)
        return prepared

    def score_dense(self, prepared: Prepared) -> None:
        """Scores of the dense network, once it has weights that fit; everything after it depends on these weights."""
        prepared.model.eval()
        self._dense = fingerprint(prepared.model, self.model.name, *self.cache.facts())
        # Scores bring several processes together, and what follows expects them to be.
        mark = mark_of(self._dense, *self.cache.asked("dense"))
        if self.lightning.trainer().world_size > 1 or not self.finished.found("dense", mark):
            self._measure_dense(prepared.model)
            self.finished.note("dense", mark)

    def _measure_dense(self, model: nn.Module) -> None:
        """Its scores, from an earlier run where runs share a cache and one process decides."""
        trainer = self.lightning.trainer()
        if trainer.world_size > 1 or self.cache.folder == self.folder.path:
            return self.lightning.score("dense", model)

        def measure() -> dict[str, Any]:
            self.lightning.score("dense", model)
            known = ("dense/", "test/samples", "val/samples")
            return {name: value for name, value in self.folder.metrics.items() if name.startswith(known)}

        facts = trainer.accelerator.__class__.__name__, len(self.data.test_dataloader()), *self.cache.asked("dense")
        self.folder.record(self.cache.scores(mark_of(self._dense, *facts), measure))

    def mark(self, stage: Purpose, *facts: object) -> str:
        """Hash of the dense network, the settings of prune, calibration and trainer, and further facts of a stage."""
        asked = (self.prune, self.calibration, stage, *facts, *self.cache.asked(stage), *self.prune.code)
        return mark_of(self._dense, *asked, *self.cache.left_out(self.calibration.samples))

    def analyse(self, prepared: Prepared) -> Subject:
        """Find the groups of the dense network."""
        subject = subject_of(prepared.model, self.lightning.example(2), self.prune)
        log(f"{len(subject.groups)} groups with {sum(group.num_units for group in subject.groups)} units can be cut")
        return subject.in_blocks(self.lightning.device) if self.calibration.streamed else subject

    def _mirrors(self, subject: Subject) -> bool:
        """Is the network calibrated on mirrored images, too?  The first process asks it, and all do the same."""

        def ask() -> str:
            subject.placed(self.lightning.device)
            few, model = self.lightning.calibration_inputs(min(self.calibration.samples, FEW), self.seed), subject.model
            with subject.visits.of(model):
                found = is_mirrored(model, few, objective_asked(subject, few, self.prune), self.prune.mirrors)
            subject.to("cpu")
            return "yes" if found else ""

        with plain_arithmetic():
            return bool(from_first(ask))

    def calibrate(self, subject: Subject) -> Mapping[str, Moments]:
        """Moments of the calibration samples, measured, or taken from an earlier run of the very same facts."""
        mirrored = self._mirrors(subject)
        if self.calibration.streamed:
            inputs = self.lightning.calibration_inputs(self.calibration.samples, self.seed, whole=False)
            samples = Samples.of(inputs, mirrored=mirrored)
            moments, facts = self.streamed.measured(subject, samples, self.calibration)
        else:
            measure = partial(self.lightning.measured_moments, subject, self.calibration, self.seed, mirrored=mirrored)
            moments, facts = self.cache.moments(subject, self.calibration, measure, mirrored=mirrored)
        if isinstance(self.data, TextData):
            self.folder.record(self.data.sources())
        self.folder.record(
            {
                "calibration/mirrored": mirrored,
                "time/calibrate_s": float(facts["calibrate_s"]),
                "time/forward_s": facts["forward_s"] and float(facts["forward_s"]),
                "calibration/samples": int(facts["samples"]),
                "calibration/drawn": self.data.num_drawn(self.calibration.samples),
                "calibration/repeats": self.data.num_repeats(self.calibration.samples, self.seed),
                "calibration/reused": facts["reused"],
                "cache/moments": facts.get("entry"),
            }
        )
        return moments
