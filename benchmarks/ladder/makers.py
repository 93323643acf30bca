"""How does a rung make a network smaller, at the cost of its plan and fit alone?

Everything that rungs share is measured once for each calibration seed: the analysis, the moments, the sensitivity, and
the gradients that peers look at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from harness import Batches
from peers import torchpruning
from peers.batch_norm import has_batch_norm, reestimated
from peers.mean_folding import fold_means
from torch import Tensor, nn

from ladder.rungs import Rung
from snp.fit.calibration import sensitivity_of
from snp.fit.preparation import problem_of
from snp.fit.realise import realise
from snp.fit.trials import Trials
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.samples import Samples
from snp.plan.problem import Problem
from snp.pruning import decide
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of

__all__ = ["MAKERS", "NO_BATCH_NORM", "Calibrated", "NotPossibleError", "made", "settings_of"]


NO_BATCH_NORM = "has no BatchNorm"


class NotPossibleError(Exception):
    """A rung that this network or share does not allow, with the reason: a finding, and a line in the table."""


def settings_of(rung: Rung, share: float, seed: int) -> PruneSettings:
    """The options of a rung of ours at a share of the MACs."""
    return PruneSettings(target_macs=share, seed=seed, **rung.settings)


class Calibrated:
    """A dense network and one seed's calibration images, with everything measured on them kept.

    Args:
        model: in evaluation mode.
        batches: images and labels; only Torch-Pruning's Taylor and Hessian importances look at the labels.
        seed: of the calibration images, and of everything random.
    """

    def __init__(self, model: nn.Module, batches: Batches, seed: int) -> None:
        self.model, self.batches, self.seed = model, batches, seed
        self.inputs = Batch.all(batches)
        self._problems: dict[tuple[Any, ...], tuple[Subject, Problem]] = {}
        self._sensitivity: dict[bool, dict[str, Tensor]] = {}
        self._trials: dict[bool, Trials] = {}
        self._gradients: dict[str, dict[str, Tensor]] = {}
        self._made: dict[str, nn.Module] = {}

    def problem(self, settings: PruneSettings) -> tuple[Subject, Problem]:
        """What the planner looks at under some settings."""
        key = (settings.moment_gram, settings.largest_patch, settings.streams, settings.ignore)
        if key not in self._problems:
            subject = subject_of(self.model, self.inputs[0].first(2), settings)
            with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
                for inputs in self.inputs:
                    inputs.call(subject.model)
            self._problems[key] = subject, problem_of(subject, collector.moments)
        subject, problem = self._problems[key]
        if not settings.needs_sensitivity:
            return subject, problem
        if settings.streams not in self._sensitivity:
            self._sensitivity[settings.streams] = sensitivity_of(subject, self.inputs, seed=settings.seed)
        problem = replace(problem, sensitivity=self._sensitivity[settings.streams])
        if not settings.needs_trials:
            return subject, problem
        if settings.streams not in self._trials:
            self._trials[settings.streams] = Trials(subject, problem, self.inputs)
        return subject, replace(problem, trial=self._trials[settings.streams])

    def gradients(self, criterion: str) -> dict[str, Tensor]:
        """What a criterion of Torch-Pruning looks at."""
        if criterion not in self._gradients:
            self._gradients[criterion] = torchpruning.gradients_for(self.model, criterion, self.batches)
        return self._gradients[criterion]

    def once(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """A network that several rungs begin with, made by the first of them."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def _dense(calibrated: Calibrated, rung: Rung, share: float) -> nn.Module:
    return calibrated.model


def _library(calibrated: Calibrated, rung: Rung, share: float) -> nn.Module:
    settings = settings_of(rung, share, calibrated.seed)
    subject, problem = calibrated.problem(settings)
    plan = _within_reach(lambda: decide(subject, problem, settings)).plan
    return realise(subject, problem, plan, settings.fit, Samples.of(calibrated.inputs)).model


def _mean_folding(calibrated: Calibrated, rung: Rung, share: float) -> nn.Module:
    settings = settings_of(rung, share, calibrated.seed)
    subject, problem = calibrated.problem(settings)
    return fold_means(subject, problem, _within_reach(lambda: decide(subject, problem, settings)).plan)


def _within_reach(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ValueError as error:
        if not any(words in str(error) for words in ("cannot be reached", "cannot be met")):
            raise
        raise NotPossibleError(str(error)) from error


def _torch_pruning(calibrated: Calibrated, rung: Rung, share: float) -> nn.Module:
    criterion, model, example = rung.settings["criterion"], calibrated.model, calibrated.inputs[0].first(1).args[0]
    gradients = calibrated.gradients(criterion)
    ignored = torchpruning.ignored_layers(model, example, rung.settings["scope"])
    try:
        return torchpruning.prune_to_share(model, example, criterion, ignored, gradients, share)
    except Exception as error:  # that a peer's cut does not run, with whatever it raises, is what is to be shown
        raise NotPossibleError(f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}") from error


MAKERS: dict[str, Callable[[Calibrated, Rung, float], nn.Module]] = {
    "dense": _dense,
    "snp": _library,
    "mean_folding": _mean_folding,
    "torch_pruning": _torch_pruning,
}


def made(calibrated: Calibrated, rung: Rung, share: float) -> nn.Module:
    """The small network of a rung, with at most that share of the dense network's MACs.

    Raises:
        NotPossibleError: with the reason.
    """
    if rung.batch_norm and not has_batch_norm(calibrated.model):
        raise NotPossibleError(NO_BATCH_NORM)
    begun = f"{rung.maker} {dict(rung.settings)} {share}"
    small = calibrated.once(begun, lambda: MAKERS[rung.maker](calibrated, rung, share))
    return reestimated(small, [batch.args[0] for batch in calibrated.inputs]) if rung.batch_norm else small
