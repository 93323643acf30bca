"""Are batches read as the model takes them: several inputs, shared tables, orders of keys, padding, several sizes?"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import snp
from snp.graph.batch_form import BatchForm, kind_of, parsed
from snp.graph.batches import Batch

UNIFORM: dict[str, Any] = {"target_units": 0.5, "cut": "uniform"}


class Two(nn.Module):
    """Two inputs that must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 32), nn.Linear(32, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.last(self.second((self.first(x) * gate.sigmoid()).relu()).relu())


class Optional(Two):
    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.zeros(1) if gate is None else gate)


class Grid(Two):
    """Every sample at every point of a table that all samples share: [N, 4], [P, 4] -> [N, P, 3]."""

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        return self.last(self.second(self.first(x[:, None] + grid[None]).relu()).relu())


class Pairs(Two):
    """Rows of a table, picked by two numbers per sample."""

    def forward(self, nodes: Tensor, pair: Tensor) -> Tensor:
        return self.last(self.second(self.first(nodes).relu()).relu())[pair].sum(dim=1)


def kept(result: snp.PruneResult) -> list[list[int]]:
    return [decision.kept.tolist() for decision in result.plan.groups]


def same(one: snp.PruneResult, other: snp.PruneResult) -> bool:
    states = one.model.state_dict(), other.model.state_dict()
    return kept(one) == kept(other) and all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_tuples_of_all_inputs_are_mappings() -> None:
    """Tuples, tuples with labels behind them, and mappings in any order of keys give the same network."""
    torch.manual_seed(0)
    model = Two().eval()
    pairs = [(torch.randn(16, 4), torch.randn(16, 32)) for _ in range(6)]
    forms = {
        "mapping": [{"x": x, "gate": gate} for x, gate in pairs],
        "changing order": [{"x": x, "gate": g} if n % 2 else {"gate": g, "x": x} for n, (x, g) in enumerate(pairs)],
        "tuple": pairs,
        "tuple and labels": [(*pair, torch.zeros(16, dtype=torch.int64)) for pair in pairs],
        "nested": [(pair, torch.zeros(16)) for pair in pairs],
    }
    found = {name: snp.prune(model, batches, **UNIFORM) for name, batches in forms.items()}
    for name, result in found.items():
        assert same(found["mapping"], result), name


def test_optional_second_tensor_is_not_guessed() -> None:
    """Whole numbers are labels; a second tensor like the first one might be an input, so the user is asked."""
    x = torch.randn(8, 32)
    model = nn.Sequential(nn.Linear(32, 4)).eval()
    assert BatchForm.learnt(model, (x, torch.zeros(8, dtype=torch.int64))).num_inputs == 1
    with pytest.raises(ValueError, match=r"is the second one the model's gate"):
        snp.prune(Optional().eval(), [(x[:, :4], x[:, :4])], **UNIFORM)


@pytest.mark.parametrize("points", [5, 16])
def test_shared_tables_stay_whole(points: int) -> None:
    """A grid is no sample, even where it has as many rows as the batch."""
    batches = [
        {"x": torch.randn(16, 4), "grid": torch.linspace(-1, 1, 4 * points).reshape(points, 4)} for _ in range(4)
    ]
    form = BatchForm.learnt(Grid().eval(), batches[0])
    assert form.shared == {"[1]['grid']"}
    batch = form.batch(batches[0], 1)
    assert batch.size == 16
    assert batch.first(2).kwargs["grid"].shape == (points, 4)
    assert [len(part.kwargs["x"]) for part in batch.split(6)] == [6, 6, 4]
    joined = Batch.joined([form.batch(raw, 1) for raw in batches])
    assert (len(joined.kwargs["x"]), len(joined.kwargs["grid"])) == (64, points)
    result = snp.prune(Grid().eval(), batches, **UNIFORM)
    assert result.model(**batches[0]).shape == (16, points, 3)


def test_budgets_hold_where_a_table_is_shared() -> None:
    """A table that carries most of the cost is computed once for the batch; plan and inspection count it so."""

    class Operator(nn.Module):
        """A network of samples meets a network of points: [N, 8], [P, 2] -> [N, P]."""

        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16))
            self.trunk = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 16))

        def forward(self, x: Tensor, grid: Tensor) -> Tensor:
            return self.branch(x) @ self.trunk(grid).T

    def counted(model: nn.Module) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**batch)
        return counter.get_total_flops() / 2 / 32

    torch.manual_seed(0)
    model = Operator().eval()
    batch = {"x": torch.randn(32, 8), "grid": torch.rand(50, 2)}
    result = snp.prune(model, [batch], target_macs=0.6, planner="magnitude", round_to=1)
    assert result.plan.macs["dense"] == counted(model) == snp.inspect(model, batch).macs
    assert result.plan.macs["pruned"] == counted(result.model)
    assert 0.59 < counted(result.model) / counted(model) <= 0.6


def test_table_in_front_is_told_from_samples() -> None:
    """The first tensor need not be the one that has the samples."""
    nodes = torch.randn(30, 4)
    batches = [{"nodes": nodes, "pair": torch.randint(0, 30, (12, 2))} for _ in range(4)]
    assert BatchForm.learnt(Pairs().eval(), batches[0]).shared == {"[1]['nodes']"}
    snp.prune(Pairs().eval(), batches, **UNIFORM)


@pytest.mark.parametrize(
    ("batches", "sentence"),
    [
        ([], "batches is empty"),
        (torch.zeros(2, 4), "batches is one Tensor"),
        ([torch.zeros(0, 4)], "batch 1 holds no sample"),
        ([torch.zeros(2, 4), torch.zeros(0, 4)], "batch 2 holds no sample"),
        ([torch.zeros(2, 5)], "does not take the first batch"),
        ([torch.zeros(2, 4).double()], "does not take the first batch"),
        ([{"input": torch.zeros(2, 4)}, {"other": torch.zeros(2, 4)}], "give every batch the same inputs"),
        (["text"], "batches must yield tensors"),
    ],
)
def test_what_does_not_fit_is_said_at_once(batches: Any, sentence: str) -> None:
    """Which batch it is, and what to try."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with pytest.raises(ValueError, match=sentence):
        snp.prune(model, batches, **UNIFORM)


def test_networks_of_one_batch_size_are_told() -> None:
    """They cannot be looked at with two samples; the first sentence is not PyTorch's."""

    class Fixed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(16, 4))

    model = Fixed(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with pytest.raises(ValueError, match=r"does not take two samples of the first batch alone.*'\[16, 4\]' is invalid"):
        snp.prune(model, [torch.zeros(16, 4)], **UNIFORM)


def test_missing_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"the model takes x, gate, a batch holds 1 tensors"):
        list(parsed(Two().eval(), [(torch.zeros(2, 4),)]))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("options", [UNIFORM, {"target_macs": 0.6}, {**UNIFORM, "calibration": "joint"}])
def test_images_of_several_sizes(options: dict[str, Any]) -> None:
    """Moments see all of them; the sequential fit takes the most frequent size."""
    sizes = ((8, 8), (12, 8), (10, 14), (8, 8), (8, 8))
    batches = [torch.randn(8, 3, *size) for size in sizes]
    result = snp.prune(Images().eval(), batches, **options)
    assert result.model(batches[2]).shape == (8, 4)
    assert len({kind_of(Batch.of(batch)) for batch in batches}) == 3


def test_single_sample_is_enough_to_get_a_network() -> None:
    result = snp.prune(Images().eval(), [torch.randn(1, 3, 8, 8)], **UNIFORM)
    assert bool(torch.isfinite(result.model(torch.randn(2, 3, 8, 8))).all())


class Text(nn.Module):
    """Tokens with a mask, as Hugging Face names it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.out = (
            nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 20)
        )  # fmt: skip

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        return self.out(x + self.down(F.gelu(self.up(x))))


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
def test_padded_tokens_are_no_samples(calibration: str) -> None:
    """What stands at masked places changes neither plan nor weights; texts cut to their length say the same."""
    torch.manual_seed(0)
    model, tokens = Text().eval(), torch.randint(1, 20, (24, 10))
    mask = torch.ones_like(tokens)
    mask[:, 7:] = 0
    options = {**UNIFORM, "ordering": "variance", "calibration": calibration, "rectify": False}

    def pruned(ids: Tensor, masks: Tensor | None) -> snp.PruneResult:
        rows = [{"input_ids": i} | ({} if masks is None else {"attention_mask": m}) for i, m in
                zip(ids.split(6), mask.split(6), strict=True)]  # fmt: skip
        return snp.prune(model, rows, **options)

    filled = torch.where(mask == 0, torch.tensor(3), tokens)
    short = pruned(tokens[:, :7], None)
    for masked in (pruned(tokens, mask), pruned(filled, mask)):
        assert kept(masked) == kept(short)
        for key, value in short.model.state_dict().items():
            torch.testing.assert_close(masked.model.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert not same(pruned(filled, None), short)
