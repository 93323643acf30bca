"""How are weights fitted?"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from snp.core.options import STRICT, named, option

__all__ = ["FitSettings"]


@named(lambda given: "prune")
@dataclass(frozen=True, config=STRICT, kw_only=True)
class FitSettings:
    """How weights are fitted; what is marked (sequential) belongs to that calibration."""

    reconstruct: bool | Literal["tuned"] = option(
        True,
        "fold cut units into the weights that stay; tuned: then train these on the dense network's outputs for the "
        "calibration samples, without labels",
    )
    tune_epochs: int | None = option(
        None,
        "of reconstruct=tuned, over the calibration samples not held back; null: 150 with sgd, 30 with adamw",
        ge=0,
    )
    tune_optimizer: Literal["auto", "sgd", "adamw"] = option(
        "auto", "of reconstruct=tuned; auto: sgd in networks with BatchNorm, adamw in others, as transformers"
    )
    tune_rate: float | None = option(
        None, "learning rate of reconstruct=tuned at its peak; null: 0.02 with sgd, 0.0005 with adamw", gt=0
    )
    tune_views: Literal["auto", "both", "mirror", "shift", "mix", "none"] = option(
        "auto",
        "how reconstruct=tuned shows images: mirrored, shifted (both), mixed; auto: mixed, and what the dense network "
        "sees the same in",
    )
    calibration: Literal["sequential", "joint"] = option(
        "sequential", "fit layer by layer on what the pruned network computes; joint: on the dense activations"
    )
    conv_gram: Literal["patch", "channel"] = option(
        "patch", "fit every kernel element of a convolution; channel: one transfer per kernel"
    )
    intercept: bool = option(True, "fit biases, too (sequential)")
    repair: bool = option(True, "layers that add to a residual stream make up for its error so far (sequential)")
    rectify: bool = option(True, "fit what a ReLU behind a layer lets through, not the layer's outputs (sequential)")
    softmax: bool = option(
        True, "fit the probabilities of class logits in the layer that gives them out, not the logits (sequential)"
    )
    refit_all: bool = option(True, "also layers that lose no inputs, once their inputs have moved (sequential)")
    batch_norm: Literal["keep", "reestimate"] = option(
        "keep", "or reestimate the statistics on the calibration samples; those of 64 positions or more"
    )
    ridge: float | None = option(
        None, "of the fit, relative to the mean energy of a kept unit; null: chosen on held-back samples", ge=0
    )
    largest_token: float | None = option(
        4.0,
        "energy that a token may have in moments and fits, beside the median of its sample's tokens; null: any",
        gt=0,
    )
    memory_gib: float = option(8.0, "for the activations of the sequential fit; it uses fewer samples beyond", gt=0)

    @property
    def is_sequential(self) -> bool:
        """Are layers fitted in execution order?"""
        return bool(self.reconstruct) and self.calibration == "sequential"

    @property
    def fits_offsets(self) -> bool:
        """Does what is constant cost nothing, where layers can add a constant?"""
        return self.is_sequential and self.intercept

    @property
    def is_tuned(self) -> bool:
        """Is the small network trained on the dense one's outputs?"""
        return self.reconstruct == "tuned"

    @property
    def takes_steps(self) -> bool:
        """The same, and for at least one epoch?"""
        return self.is_tuned and self.tune_epochs != 0
