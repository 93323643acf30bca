"""Is the basis of queries and keys the best one, by brute force, and does turning heads change nothing?"""

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.core.bases import affine_second_moment, paired_basis
from snp.core.gram import Moments
from snp.fit.head_bases import InBases, in_head_bases
from snp.measure.moments import MomentCollector
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from tests.attention_networks import build
from tests.audit import outputs


def vectors(count: int, seed: int, rank: int = 6) -> Tensor:
    """Correlated vectors of six dimensions, float64."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, rank, generator=generator, dtype=torch.float64)
    return mixed @ torch.randn(rank, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rank", [6, 3])
def test_products_in_the_new_basis_are_the_old_ones(rank: int) -> None:
    """The maps are inverse to each other's transpose, whatever the rank of the data."""
    queries, keys = vectors(40, 0, rank), vectors(50, 1)
    basis = paired_basis(queries.T @ queries, keys.T @ keys)
    torch.testing.assert_close(basis.first.T @ basis.second, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close((queries @ basis.first.T) @ (keys @ basis.second.T).T, queries @ keys.T)


@pytest.mark.parametrize("kept", range(1, 6))
def test_no_matrix_of_that_rank_comes_closer_to_all_products(kept: int) -> None:
    """The error of keeping r dimensions is that of the best rank-r approximation of the matrix of all products."""
    queries, keys = vectors(40, 0), vectors(50, 1)
    basis = paired_basis(queries.T @ queries / 40, keys.T @ keys / 50)
    products = queries @ keys.T
    found = (queries @ basis.first[:kept].T) @ (keys @ basis.second[:kept].T).T
    error = (products - found).square().sum()
    best = torch.linalg.svdvals(products)[kept:].square().sum()
    torch.testing.assert_close(error, best)
    torch.testing.assert_close(error / (40 * 50), basis.energy[kept:].sum())


def test_without_energy_the_basis_is_still_one() -> None:
    """Dead queries leave an invertible map."""
    zero = torch.zeros(4, 4, dtype=torch.float64)
    basis = paired_basis(zero, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(basis.first.T @ basis.second, torch.eye(4, dtype=torch.float64))


def test_affine_second_moment_is_that_of_the_outputs() -> None:
    """From moments of the inputs, the moment of what a layer with bias makes of them."""
    inputs, weight, bias = vectors(30, 2), vectors(4, 3), torch.randn(4, dtype=torch.float64)
    moments = Moments.of(inputs)
    found = affine_second_moment(weight, bias, moments.second / 30, moments.mean())
    out = inputs @ weight.T + bias
    torch.testing.assert_close(found, out.T @ out / 30)


def measured(name: str, structures: tuple[str, ...], equal: bool = False) -> tuple[Subject, dict[str, Moments], Tensor]:
    model, batch = build(name, 32)
    # How much a token may count is read in the bases of the dense network: turned ones are compared without a limit.
    settings = PruneSettings(structures=structures, attention="equal" if equal else "free", largest_token=None)
    subject = subject_of(model, batch[:2], settings)
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        model(batch)
    return subject, collector.moments, batch


def turned(name: str, equal: bool = False) -> tuple[Subject, InBases, Tensor]:
    subject, moments, batch = measured(name, ("ffn", "vo", "qk"), equal)
    return subject, in_head_bases(subject, moments, {}, rotate=True), batch


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("name", ["vit", "vit without biases", "shared keys", "shared keys, eager", "eager vit"])
def test_turning_heads_changes_nothing_but_weights(name: str, equal: bool) -> None:
    """The network computes the same, and moments are those that would be measured on it."""
    subject, found, batch = turned(name, equal)
    torch.testing.assert_close(outputs(found.subject.model, batch), outputs(subject.model, batch), rtol=1e-3, atol=1e-4)
    changed = {
        key
        for key, value in found.subject.model.state_dict().items()
        if not value.equal(subject.model.state_dict()[key])
    }
    assert changed
    assert changed <= {
        n for n in subject.model.state_dict() if any(w in n for w in ("attn.", "query", "key", "value", "out"))
    }
    with torch.no_grad(), MomentCollector(found.subject.model, subject.readers) as collector:
        found.subject.model(batch)
    for key, moments in collector.moments.items():
        scale = float(moments.second.abs().max())
        torch.testing.assert_close(found.moments[key].second, moments.second, rtol=0, atol=1e-3 * scale)


def test_logits_lose_what_the_statistics_say() -> None:
    """Cutting a dimension of queries and keys costs the centred products of one head its energy, by brute force."""
    subject, found, batch = turned("vit")
    layer = subject.graph.attention[0]
    held: list[Tensor] = []
    module = found.subject.model.get_submodule("blocks.0.attn.qkv")
    handle = module.register_forward_hook(lambda _module, _inputs, output: held.append(output.detach().double()))
    outputs(found.subject.model, batch)
    handle.remove()
    rows = held[0].reshape(-1, held[0].shape[-1])
    energy = found.logits["blocks.0.attn.qkv:qk"].energy.reshape(3, 8)
    for head in range(3):
        query, key = rows[:, layer.query.index[head]], rows[:, layer.key.index[head]]
        for dimension in range(8):
            part = torch.outer(query[:, dimension], key[:, dimension] - key[:, dimension].mean())
            torch.testing.assert_close(part.square().mean(), energy[head, dimension], rtol=2e-2, atol=1e-9)
        assert (energy[head].diff() <= 0).all()


class Bent(nn.Module):
    """A nonlinearity between values and output projection, and one on the queries: heads must not be turned."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.out = nn.Linear(16, 16), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.enter(tokens)
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query.relu(), key, value, scale=0.3)
        return self.out(mixed.transpose(1, 2).flatten(2).relu()).mean(1)


def test_heads_with_nonlinearities_stay_as_they_are() -> None:
    """What does not bear a rotation is found by trying, and its dimensions are chosen as they lie."""
    model = Bent().eval()
    batch = torch.randn(32, 7, 16)
    # Sizes cannot differ here, because the three projections are split in equal parts.
    with pytest.raises(ValueError, match="a trial cut failed"):
        subject_of(model, batch[:2], PruneSettings(structures=("vo", "qk")))
    settings = PruneSettings(structures=("vo", "qk"), attention="equal", target_units=0.5)
    subject = subject_of(model, batch[:2], settings)
    assert [group.kind for group in subject.groups] == ["dims"]
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        model(batch)
    found = in_head_bases(subject, collector.moments, {}, rotate=True)
    assert found.subject.model is model
    result = snp.prune(model, [batch], settings)
    assert result.check < 1e-4


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("name", ["vit", "shared keys"])
def test_turned_and_fitted_is_better_than_deleted(name: str, calibration: str) -> None:
    """At half of the dimensions of queries, keys and values the fit errs less than deletion in the stock basis."""
    model, batch = build(name, 96)
    errors = []
    for reconstruct in (True, False):
        result = snp.prune(
            model,
            [batch],
            structures=("vo", "qk"),
            target_units=0.5,
            calibration=calibration,
            reconstruct=reconstruct,
            ordering="variance",
        )
        errors.append(float((outputs(result.model, batch) - outputs(model, batch)).square().mean()))
    assert errors[0] < 0.7 * errors[1]


class Relative(nn.Module):
    """Keys of relative positions that the queries of all heads are compared with: a unit lies in all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(24, 24) for _ in range(4))
        self.relative, self.head = nn.Parameter(torch.randn(7, 6)), nn.Linear(24, 5)
        with torch.no_grad():
            for rows in (self.q.weight, self.k.weight):
                rows.mul_(torch.tensor([3, 3e-3, 3, 3, 3e-3, 3]).repeat(4)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = (query @ key.mT + query @ self.relative.t()) * 6**-0.5
        return self.head(self.o((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)))


def test_dimensions_of_all_heads_at_once_hold_what_they_hold_in_each() -> None:
    """Their products are added up, by brute force, and no head is turned alone; values still are."""
    torch.manual_seed(0)
    model, batch = Relative().eval(), torch.randn(64, 7, 24)
    subject = subject_of(model, batch[:2], PruneSettings(structures=("vo", "qk"), largest_token=None))
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        model(batch)
    found = in_head_bases(subject, collector.moments, {}, rotate=True)
    state = found.subject.model.state_dict()
    assert {name for name, value in model.state_dict().items() if not value.equal(state[name])} == {
        "v.weight", "v.bias", "o.weight",
    }  # fmt: skip
    with torch.no_grad():
        query, key = (layer(batch).double().reshape(-1, 4, 6) for layer in (model.q, model.k))
    wanted = (query.square().mean(0) * key.var(0, correction=0)).sum(0)
    torch.testing.assert_close(found.logits["q:qk"].energy, wanted, rtol=1e-4, atol=0)
    assert torch.equal(found.logits["q:qk"].weight, torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("ordering", ["zca", "variance"])
def test_dimensions_of_all_heads_at_once_are_cut(ordering: str) -> None:
    """Those that hold little go from every head and from the relative positions, and little is lost."""
    torch.manual_seed(0)
    model, batch = Relative().eval(), torch.randn(128, 7, 24)
    options = {"structures": ("qk",), "ordering": ordering, "target_units": 0.7}
    result = snp.prune(model, [batch], progress=False, preset="quick", **options)
    assert [decision.kept.tolist() for decision in result.plan.groups] == [[0, 2, 3, 5]]
    assert result.model.q.weight.shape == result.model.k.weight.shape == (16, 24)
    assert result.model.relative.shape == (7, 4)
    error = (outputs(result.model, batch) - outputs(model, batch)).square().mean()
    assert error < 0.03 * outputs(model, batch).var()
