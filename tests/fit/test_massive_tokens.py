"""A token thousands of times as large as all others, as in language models, decides neither cuts nor fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.fit.sequential import ToFit, fit_in_sequence
from snp.graph.batches import Batch
from snp.plan.plan import PruningPlan
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of

WIDTH, HIDDEN, TOKENS = 16, 32, 24


class Block(nn.Module):
    """Hidden units beside a stream of tokens, behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def network(num_blocks: int = 3, massive: float = 0.0) -> nn.Module:
    """Blocks whose second one has a unit that makes the first token of a sample that large, and no other."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(num_blocks)), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8)).eval()
    with torch.no_grad():
        for block in model[:num_blocks]:
            block.up.weight[:, 0] = 0.0  # nothing else looks at what marks the first token
            block.down.weight[0] = 0.0
        second = model[1]
        second.up.weight[0], second.up.bias[0] = torch.eye(WIDTH)[0] * massive, -massive
        second.down.weight[:, 0] = torch.linspace(-1, 1, WIDTH)
    return model


def samples(count: int, seed: int = 1) -> Tensor:
    """Shape [count, TOKENS, WIDTH]; the first feature marks the first token."""
    found = torch.randn(count, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    found[..., 0] = 0.0
    found[:, 0, 0] = 4.0
    return found


def kept(plan: PruningPlan) -> list[int]:
    return [len(decision.kept) for decision in plan.groups]


PAPER: dict[str, Any] = {"preset": "paper", "target_params": 0.7, "round_to": 1}


def test_the_paper_s_cut_of_a_block_does_not_depend_on_one_token() -> None:
    """With it and without it every block keeps as many units; a plain sum of squares cuts its block to pieces."""
    usual = kept(snp.prune(network(), [samples(32)], **PAPER).plan)
    robust = snp.prune(network(massive=1000.0), [samples(32)], **PAPER).plan
    plain = kept(snp.prune(network(massive=1000.0), [samples(32)], largest_token=None, **PAPER).plan)
    assert max(abs(found - wanted) for found, wanted in zip(kept(robust), usual, strict=True)) <= 2
    assert 0 in robust.groups[1].kept.tolist(), "what one token alone needs stays: its direction is nobody else's"
    assert plain[1] < usual[1] / 4


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
def test_usual_tokens_are_fitted_as_well_as_without_it(calibration: str) -> None:
    """The error of what the network says of them, on samples not seen, with the same number of units."""
    errors = {}
    for massive in (0.0, 1000.0):
        model = network(massive=massive)
        options = {"target_units": 0.6, "ordering": "zca", "calibration": calibration, "round_to": 1}
        small = snp.prune(model, samples(64).split(16), **options).model
        test = samples(64, seed=2)
        with torch.no_grad():
            errors[massive] = float((small(test) - model(test))[:, 1:].square().mean())
    assert errors[1000.0] <= 1.25 * errors[0.0]


def test_a_fit_in_sequence_decays_to_its_start() -> None:
    """At a ridge beyond all bounds every layer that loses units is what was folded on the dense activations."""
    model, batches = network(), Batch.all(samples(32).split(8))
    settings = PruneSettings(ridge=1e9, intercept=False, refit_all=False)
    subject = subject_of(model, batches[0].example(), settings)
    half = {name: torch.arange(0, reader.num_columns, 2) for name, reader in subject.readers.items()}
    starts = {}
    for number, (name, kept_columns) in enumerate(half.items()):
        start = torch.randn(WIDTH, HIDDEN, generator=torch.Generator().manual_seed(number))
        starts[name] = torch.zeros_like(start).index_copy(1, kept_columns, start[:, kept_columns])
    wanted = ToFit(subject.readers, half, starts.__getitem__)
    found = fit_in_sequence(subject, batches, wanted, settings.fit).tensors
    assert found.keys() == starts.keys()
    for name, start in starts.items():
        torch.testing.assert_close(found[name], start, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_few_tokens_do_no_harm_over_many_blocks(seed: int) -> None:
    """Twice as many tokens as units: what is fitted in sequence is on new samples no worse than the joint fit."""
    model, test = network(num_blocks=8), samples(64, seed=9)
    errors = {}
    for calibration in ("joint", "sequential"):
        options = {"target_units": 0.6, "ordering": "zca", "calibration": calibration, "round_to": 1}
        small = snp.prune(model, samples(8, seed=seed).split(1), **options).model
        with torch.no_grad():
            errors[calibration] = float((small(test) - model(test)).square().mean())
    assert errors["sequential"] <= 1.1 * errors["joint"]
