"""Which of the small networks is reported and exported: as pruned, tuned or fine-tuned?

The latest one, unless an earlier one scored higher by more than chance: of a few validation samples one or two more
right answers decide nothing. The margin is the standard error of the difference of two shares counted on separate
samples; on the same samples, as here, the true one is smaller, so that the later network wins the doubtful cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snp.report.intervals import standard_error
from snp.report.stages import LOWER_IS_BETTER, MEASURES, SMALL, SMALL_WORDS, number, score_of

__all__ = ["Choice", "better_stage", "choice_of"]


@dataclass(frozen=True)
class Choice:
    """One of the small networks.

    Attributes:
        stage: its name.
        reason: a sentence.
    """

    stage: str
    reason: str


def better_stage(metrics: Mapping[str, Any]) -> str | None:
    """Name of the small network to report and export; None where there is none."""
    choice = choice_of(metrics)
    return choice.stage if choice else None


def choice_of(metrics: Mapping[str, Any]) -> Choice | None:
    """The small network to report and export, and why; None where there is none.

    By the validation score where there is one, so that the test score stays one of a network that it did not choose.

    Args:
        metrics: the flat content of `metrics.json`.
    """
    stages = [name for name in SMALL if any(f"{name}/{measure}" in metrics for measure in MEASURES)]
    if len(stages) < 2:
        return Choice(stages[0], "there is no other small network") if stages else None
    for prefix, part in (("val_", "val"), ("", "test")):
        score = score_of(metrics)
        found = {name: number(metrics, f"{name}/{prefix}{score}") for name in stages}
        known = {name: value for name, value in found.items() if value is not None}
        if len(known) == len(stages):
            return _by_score(known, score, part, number(metrics, f"{part}/samples"))
    return Choice(stages[-1], "the last one; not all were scored")


def _by_score(scores: Mapping[str, float], score: str, part: str, num_samples: float | None) -> Choice:
    """Of networks in order: an earlier one only where it is better by more than the standard error."""
    sign = -1 if score in LOWER_IS_BETTER else 1
    counted = int(num_samples) if num_samples and score == "acc1_percent" else None

    def margin(one: str, other: str) -> float:
        return standard_error(scores[one], scores[other], counted) if counted else 0.0

    *earlier, chosen = scores
    for name in reversed(earlier):
        if sign * (scores[name] - scores[chosen]) > margin(name, chosen):
            chosen = name
    words = {"val": "validation", "test": "test"}[part]
    told = ", ".join(f"{SMALL_WORDS[name]} {value:.2f}" for name, value in scores.items())
    samples = f"{counted:,} " if counted else ""
    told = f"{told} {'%' if score == 'acc1_percent' else 'perplexity'} on the {samples}{words} samples"
    best, last = max(scores, key=lambda name: sign * scores[name]), list(scores)[-1]
    if chosen != last:
        by = f", by more than the standard error of {margin(chosen, last):.1f} points" if counted else ""
        return Choice(chosen, f"better than what came after it{by}: {told}")
    if scores[best] == scores[chosen]:
        return Choice(chosen, f"none scored better: {told}")
    error = f"the standard error of {margin(best, chosen):.1f} points"
    return Choice(chosen, f"the latest, and none is better by more than {error}: {told}")
