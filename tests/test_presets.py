"""Do presets set what they say, leave alone what was asked for, and cost what they promise?"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.settings import PruneSettings


def test_best_is_what_happens_without_a_word() -> None:
    """The default preset changes no option."""
    assert PruneSettings(preset="best") == PruneSettings()


@pytest.mark.parametrize("target", [{"target_macs": 0.5}, {"target_var": 0.9}, {"target_units": 0.5}, {}], ids=str)
def test_paper_is_the_papers_method_with_every_target(target: dict[str, float]) -> None:
    """One joint fit, one transfer per kernel, ZCA order, variance cut unless the target is a share of units."""
    settings = PruneSettings(preset="paper", **target)
    assert not settings.is_sequential
    assert not settings.needs_sensitivity
    assert not settings.needs_trials
    assert settings.moment_gram == "channel"
    assert settings.ordering_name == "zca"
    assert settings.cut_name == ("uniform" if "target_units" in target else "variance")


def test_options_that_were_asked_for_stay() -> None:
    """Also where single options are changed later on."""
    settings = PruneSettings(preset="quick", ordering="saw", conv_gram="channel", ridge=0.1)
    assert (settings.ordering, settings.ridge, settings.calibration) == ("saw", 0.1, "joint")
    assert replace(settings, target_macs=0.7).ordering == "saw"
    assert replace(PruneSettings(), preset="paper").cut == "variance"


def test_defaults_that_are_asked_for_by_name_are_not_filled_over() -> None:
    """Refused, since nothing else could be told from what was left at its default."""
    images = [torch.randn(8, 3, 8, 8)]
    told = r"^prune\.trials=true goes against prune\.preset=quick, which sets it to false: leave one of them out"
    with pytest.raises(ValueError, match=told):
        snp.prune(_Counting(), images, preset="quick", trials=True)
    with pytest.raises(ValueError, match=told):
        snp.prune(_Counting(), images, PruneSettings(preset="quick"), trials=True)
    with pytest.raises(ValueError, match=r"^prune\.ordering=auto goes against prune\.preset=paper, which .* zca"):
        snp.inspect(_Counting(), images[0], preset="paper", ordering="auto")
    assert snp.inspect(_Counting(), images[0], preset="quick", trials=False, ordering="auto").groups


class _Counting(nn.Module):
    """Counts the samples that pass, forwards and backwards, over all copies of itself."""

    samples = 0

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8)
        layers = nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3), norm, nn.Flatten(), nn.Linear(128, 4)
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            _Counting.samples += len(x) * (2 if torch.is_grad_enabled() else 1)
        return self.body(x)


@pytest.mark.parametrize(("preset", "most"), [("paper", 0.5), ("quick", 5.0)])
def test_what_a_preset_costs_beyond_calibration(preset: str, most: float) -> None:
    """In forward passes of the calibration samples, a backward pass counted as one more."""
    images = torch.randn(256, 3, 8, 8)
    _Counting.samples = 0
    result = snp.prune(_Counting(), images.split(64), target_macs=0.6, preset=preset, progress=False)
    assert result.check < 1e-5
    assert _Counting.samples / len(images) - 1 <= most
