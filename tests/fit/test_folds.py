"""Folds are worked on until what they say is beyond doubt, whoever works on them."""

import pytest
import torch
from torch import Tensor, nn

from snp.fit.at_outputs import Outputs
from snp.fit.candidates import Candidates
from snp.fit.folds import NUM_FOLDS, NUM_PIECES, Fold, farther_than_deletion, is_settled
from snp.graph.batches import Batch
from snp.measure.outputs import objective_of


def folds(*shares: float, spread: float = 0.0, seed: int = 0) -> list[Fold]:
    """Distances as shares of deletion's, which differs from part to part; shares differ by so much, too."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(NUM_FOLDS):
        deletion = 1 + torch.rand(NUM_PIECES, generator=generator)
        noise = (spread * torch.randn(NUM_PIECES, len(shares), generator=generator)).exp()
        rows = deletion[:, None] * torch.tensor([*shares, 1.0]) * torch.cat([noise, torch.ones(NUM_PIECES, 1)], dim=1)
        found.append([(4, row) for row in rows.tolist()])
    return found


def test_two_folds_that_agree_are_enough() -> None:
    """One is not: its parts were judged by the same fit."""
    clear = folds(0.2, 0.6, spread=0.01)
    assert [is_settled(clear[:number], 3) for number in range(1, 5)] == [False, True, True, True]


@pytest.mark.parametrize("shares", [(0.5, 0.55), (0.9, 1.0), (1.0, 1.1)], ids=str)
def test_where_chance_may_decide_all_are_worked_on(shares: tuple[float, float]) -> None:
    """Two fits that are nearly as good, or one that is hardly better than deletion or not at all."""
    settled = [is_settled(folds(*shares, spread=0.3, seed=seed)[:2], 3) for seed in range(20)]
    assert sum(settled) <= 5
    assert is_settled(folds(*shares, spread=0.001)[:2], 3)


def test_what_differs_by_little_is_no_doubt() -> None:
    """Candidates that are the same do not keep the others waiting, and nothing known is no decision."""
    assert is_settled(folds(0.5, 0.5)[:2], 3)
    assert not is_settled([[], []], 3)
    assert not is_settled([[(1, [0.5, 1.0])], []], 2)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_cannot_be_told_is_asked_further(value: float) -> None:
    """Outputs of another shape, or without an end."""
    broken = [[(size, [value, *row[1:]]) for size, row in fold] for fold in folds(0.3, 0.3, spread=0.01)]
    assert not is_settled(broken[:2], 3)


@pytest.mark.parametrize("spread", [0.01, 0.3])
def test_a_decision_that_is_settled_is_that_of_all_folds(spread: float) -> None:
    """Up to what nobody misses; over many draws."""
    for place in range(40):
        every = folds(0.2 + 0.02 * place, 0.9 - 0.01 * place, spread=spread, seed=place)
        for number in range(2, NUM_FOLDS):
            if is_settled(every[:number], 3):
                taken = int(farther_than_deletion(every[:number], 3).argmin())
                means = torch.stack([torch.tensor(row).log() for fold in every for _, row in fold]).mean(dim=0)
                assert means[taken] <= means.min() + 0.15


@pytest.mark.parametrize("rows", [0.1, 3.0], ids=["settled", "not settled"])
def test_the_same_is_taken_however_many_are_worked_on_at_once(rows: float) -> None:
    """As many processes as there are work on as many folds; what is not asked for has no say."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    dense = model[2].weight.detach()
    deleted = {"2.weight": dense * (torch.arange(16) < 8)}
    inputs = Batch((torch.randn(48, 8),)).split(16)
    outputs = Outputs(model, objective_of(model, inputs))
    worked: list[list[int]] = []

    def fit(some: object) -> Candidates:
        noise = torch.randn(dense.shape, generator=torch.Generator().manual_seed(len(worked[-1])))
        return Candidates(deleted, ({"2.weight": dense + rows * 0.1 * noise}, {"2.weight": 0.9 * dense}))

    def taken(at_once: int) -> Tensor:
        def deal(numbers: object, work: object) -> list[Fold]:
            found = []
            for number in numbers:  # type: ignore[attr-defined]
                worked[-1].append(number)
                found.append(work(number))  # type: ignore[operator]
            return found

        worked.append([])
        own = Candidates(deleted, ({"2.weight": 0.99 * dense}, {"2.weight": 0.9 * dense}))
        return outputs.best_of_few(own, inputs, fit, deal, at_once)["2.weight"]

    first = taken(1)
    assert len(worked[0]) < NUM_FOLDS or rows > 1
    for at_once in (2, 3, 4):
        assert torch.equal(taken(at_once), first)
        assert worked[-1] == [*range(min(NUM_FOLDS, -(-len(worked[0]) // at_once) * at_once))]
