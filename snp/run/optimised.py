"""Will a run have the numbers that a sweeper asks for?  Looked at before the work, not after hours of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from snp.core.registry import close_to
from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.run.training.recipe import TrainingRecipe
from snp.run.training.task import score_names
from snp.settings import PruneSettings

__all__ = ["numbers_of_a_stage", "refuse_missing_numbers"]

_SIZES = ("macs", "params", "size_bytes")
# Numbers beside those of the networks. What is known of latency depends on the device, so all of it passes.
_FACTS: dict[str, tuple[str, ...]] = {
    "calibration": ("samples", "drawn", "repeats", "mirrored", "reused"),
    "finetune": ("learning_rate", "cut_size"),
    "latency": (),
    "memory": ("peak_bytes", "peak_gpu_bytes"),
    "prune": ("reached", "target_value", "dense_cost", "pruned_cost", "target_var", "threshold", "self_check",
              "fitted_samples"),
    "test": ("samples",),
    "time": ("calibrate_s", "forward_s", "sensitivity_s", "latency_s", "multiples_s", "plan_s", "prune_s", "tune_s",
             "finetune_s"),
    "tune": ("epoch", "epochs", "rate", "samples", "held_back", "distance_before", "distance_after"),
    "val": ("samples",),
}  # fmt: skip


def refuse_missing_numbers(
    names: Sequence[str],
    data: SampleData,
    prune: PruneSettings,
    finetune: TrainingRecipe,
    trainer: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Every number that is named is one that this run will have.

    Args:
        names: as in ``metrics.json``: ``pruned/macs``.
        data: the samples, which say by what a network is scored.
        prune: says whether there is a tuned network.
        finetune: says whether there is a fine-tuned one.
        trainer: its options, which may leave all of the validation samples out.

    Raises:
        ValueError: one is not.
    """
    if trainer.get("limit_val_batches") == 0:
        _refuse_validation(names)
    missing: dict[str, str] = {}
    if not prune.is_tuned:
        missing |= dict.fromkeys(("tuned", "tune"), "nothing is tuned without prune.reconstruct=tuned")
    if not finetune.epochs:
        missing |= dict.fromkeys(("finetuned", "finetune"), "nothing is fine-tuned with finetune.epochs=0")
    stages = [stage for stage in ("dense", "pruned", "tuned", "finetuned") if stage not in missing]
    for name in names:
        stage, _, number = name.partition("/")
        if stage in missing:
            raise ValueError(f"optimise={name}: {missing[stage]}; the networks of this run are {', '.join(stages)}")
        if stage not in stages and (stage not in _FACTS or not number):
            hint = close_to(stage, [*stages, *_FACTS])
            raise ValueError(
                f"optimise={name}: numbers are called STAGE/NAME as in metrics.json, {stages[-1]}/macs for example, "
                f"and no stage is called {stage!r}{hint}"
            )
        known = numbers_of_a_stage(data) if stage in stages else _FACTS[stage]
        if known and number not in known:
            raise ValueError(f"optimise={name}: {_why_not(number, stage, known, data)}")


def _refuse_validation(names: Sequence[str]) -> None:
    """None of the numbers is of the validation samples, which the trainer leaves out."""
    for name in names:
        stage, _, number = name.partition("/")
        if stage == "val" or number.startswith("val_"):
            raise ValueError(
                f"optimise={name}: trainer.limit_val_batches=0 leaves all of validation out; set it to null"
            )


def _why_not(number: str, stage: str, known: Sequence[str], data: SampleData) -> str:
    if stage not in _FACTS and number.startswith("val_") and number.removeprefix("val_") in score_names(data):
        return "there are no validation samples; set data.val_fraction above 0"
    if stage == "prune" and number in numbers_of_a_stage(data):
        return f"did you mean pruned/{number}?"
    return f"the numbers of {stage} are {', '.join(known)}{close_to(number, [*known])}"


def numbers_of_a_stage(data: SampleData) -> list[str]:
    """What is measured of every network that is scored on these data."""
    scores = score_names(data)
    parts = [""]
    if data.val_fraction or data.has_validation_part:
        parts.append("val_")
    if isinstance(data, TextData) and data.has_second:
        parts.append("second_")
    return [*(f"{part}{score}" for part in parts for score in scores), *_SIZES]
