"""Are mirrored images calibrated on where they say the same to the dense network, and only there?"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.fit.calibration import objective_asked
from snp.fit.sequential import ToFit, fit_in_sequence
from snp.graph.batches import Batch
from snp.measure.views import is_mirrored, with_mirrored, without_mirrored
from snp.settings import FitSettings, PruneSettings
from snp.surgery.subject import subject_of
from tests.networks import images, language, words

SETTINGS = PruneSettings(target_macs=0.6)


class Sides(nn.Module):
    """Class logits of what is in an image, wherever; or of what is in its left half."""

    def __init__(self, *, looks_left: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.looks_left = looks_left

    def forward(self, x: Tensor) -> Tensor:
        seen = self.features(x)
        return self.head((seen[..., : seen.shape[-1] // 2] if self.looks_left else seen).mean((2, 3)))


def pictures(num: int = 64) -> Tensor:
    """Images [N, 3, 8, 8] that differ from each other, and their halves from each other."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 3, 8, 8, generator=generator) + torch.randn(
        num, 3, 1, 2, generator=generator
    ).repeat_interleave(4, 3)


def answer(model: nn.Module, batches: list[Tensor], **options: object) -> bool:
    """What the network says of mirrored images."""
    found = [Batch.of(batch) for batch in batches]
    settings = replace(SETTINGS, **options)  # type: ignore[arg-type]
    subject = subject_of(model.eval(), found[0].example(), settings)
    return is_mirrored(subject.model, found, objective_asked(subject, found, settings), settings.mirrors)


@pytest.mark.parametrize("sizes", [[64], [16] * 4, [1] * 64])
def test_the_dense_network_is_asked(sizes: list[int]) -> None:
    """One that sees left and right alike takes mirrored images, one that does not has none, in batches of any size."""
    batches = list(pictures().split(sizes))
    assert answer(Sides(looks_left=False), batches)
    assert not answer(Sides(looks_left=True), batches)


def test_what_is_asked_for_is_done() -> None:
    """By hand it is what is asked for; of other inputs than images it is refused by name, and auto does nothing."""
    batches = list(pictures().split(32))
    assert answer(Sides(looks_left=True), batches, mirrored=True)
    assert not answer(Sides(looks_left=False), batches, mirrored=False)
    # Presets that promise a cost, or the paper's form, keep to the images; so does what looks at moments only.
    for options in (
        {"preset": "quick"},
        {"preset": "paper"},
        {"calibration": "joint", "cut": "uniform", "ordering": "zca"},
    ):
        assert not answer(Sides(looks_left=False), batches, **options)
    texts = [words(16)]
    assert not answer(language(), texts)
    with pytest.raises(ValueError, match=r"prune\.mirrored=true .* images \[N, C, H, W\]"):
        answer(language(), texts, mirrored=True)


def test_every_image_has_its_mirror_image_behind_it() -> None:
    """So that a part of a batch holds both of most; and back again to the bit."""
    batch = Batch.of(images(5))
    pairs = with_mirrored(batch)
    (seen,) = pairs.args
    assert torch.equal(seen[::2], batch.args[0])
    assert torch.equal(seen[1::2], batch.args[0].flip(3))
    assert torch.equal(without_mirrored(pairs).args[0], batch.args[0])


def test_a_prune_is_that_of_the_images_and_mirrored_ones() -> None:
    """To the bit what both give as calibration images; the plan says so, and counts the images."""
    model, batches = Sides(looks_left=False).eval(), list(pictures(48).split(16))
    found = snp.prune(model, batches, SETTINGS)
    both = [with_mirrored(Batch.of(batch)).args[0] for batch in batches]
    by_hand = snp.prune(model, both, SETTINGS, mirrored=False)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, by_hand.model.state_dict()[name]), name
    assert (found.plan.settings["mirrored"], by_hand.plan.settings["mirrored"]) == (True, False)
    assert (found.plan.settings["samples"], by_hand.plan.settings["samples"]) == (48, 96)
    alone = snp.prune(model, batches, SETTINGS, mirrored=False)
    assert any(
        not torch.equal(tensor, alone.model.state_dict()[name]) for name, tensor in found.model.state_dict().items()
    )


@pytest.mark.parametrize("gib", [1.0, 8e-5])
def test_mirrored_images_take_no_image_s_place(gib: float) -> None:
    """Where memory holds not all of them, the fit sees the images alone, as many as it holds."""
    model, subject_settings = Sides(looks_left=False).eval(), SETTINGS
    plain = [Batch.of(batch) for batch in pictures(64).split(8)]
    subject = subject_of(model, plain[0].example(), subject_settings)
    kept = {name: torch.arange(reader.num_columns - 2) for name, reader in subject.readers.items()}
    wanted = ToFit(subject.readers, kept, lambda name: model.state_dict()[name])

    def fitted(batches: list[Batch], *, mirrored: bool) -> tuple[int, dict[str, Tensor]]:
        settings = FitSettings(memory_gib=gib)
        found = fit_in_sequence(subject, batches, wanted, settings, mirrored=mirrored)
        return found.samples, found.tensors

    samples, tensors = fitted([with_mirrored(batch) for batch in plain], mirrored=True)
    alone, without = fitted(plain, mirrored=False)
    assert samples == alone
    is_limited = gib < 1
    assert (samples < 64) == is_limited
    assert is_limited == all(torch.allclose(tensors[name], without[name], atol=1e-6) for name in without)
