"""Are matrix products with parameters layers like others, wherever and whichever way round the code writes them?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import snp
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.plan.costs import CostModel
from tests.graphs import Net, analysed, cut_anyhow, owned, summary

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Weights(nn.Module):
    """Three matrices whose inputs lie along the first dimension, or the second where ``turned``."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], *, turned: bool = False) -> None:
        super().__init__()
        sizes = [(6, 8), (8, 10), (10, 4)]
        self.first, self.second, self.third = (
            nn.Parameter(0.4 * torch.randn(*(reversed(size) if turned else size))) for size in sizes
        )
        self.offset = nn.Parameter(torch.randn(8))
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.product(x, self.first) + self.offset)
        return self.product(F.gelu(self.product(x, self.second)), self.third)


PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "matmul": (lambda x, w: x @ w, False),
    "mm": (lambda x, w: x.flatten(0, 1).mm(w).unflatten(0, (-1, 5)), False),
    "from the left": (lambda x, w: (w @ x.mT).mT, True),
    "einsum": (lambda x, w: torch.einsum("bti,io->bto", x, w), False),
    "einsum, weight first": (lambda x, w: torch.einsum("oi,bti->bto", w, x), True),
    "einsum, inputs in front": (lambda x, w: torch.einsum("ibt,io->obt", x.movedim(-1, 0), w).movedim(0, -1), False),
    "functional": (F.linear, True),
    "turned round": (lambda x, w: x @ w.T, True),
    "turned round from the left": (lambda x, w: (w.mT @ x.transpose(1, 2)).mT, False),
    "einsum, turned round": (lambda x, w: torch.einsum("bti,oi->bto", x, w.permute(1, 0)), False),
    "functional, turned round": (lambda x, w: F.linear(x, w.t()), False),
    "grown and shrunk": (lambda x, w: x @ w.unsqueeze(1).squeeze(1), False),
    "addmm": (lambda x, w: torch.addmm(w[0], x.flatten(0, 1), w).unflatten(0, (-1, 5)), False),
}


@pytest.mark.parametrize("name", [name for name in PRODUCTS if name != "addmm"])
def test_products_with_parameters_are_layers(name: str) -> None:
    """Both hidden layers go, beside an offset that is a plain parameter; costs are those that are counted."""
    function, turned = PRODUCTS[name]
    model = Weights(function, turned=turned)
    graph = cut_anyhow(model, TOKENS)
    assert [group.num_units for group in graph.groups] == [8, 10]
    inputs = 1 if turned else 0
    assert owned(graph.groups[0]) == {
        "producers": {("first", 1 - inputs, 1)},
        "consumers": {("second", inputs, 1)},
        "others": {("offset", 0, 1)},
    }
    costs = CostModel(model, graph, graph.groups)
    assert costs.macs(costs.dense) == macs_of_batch(model, Batch.of(TOKENS)) == 5 * (48 + 80 + 40)


def test_weight_that_is_also_a_summand_is_frozen() -> None:
    """Used as a matrix and as a plain tensor, it cannot be cut as either."""
    assert "first" not in summary(analysed(Weights(PRODUCTS["addmm"][0]), TOKENS))


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("name", ["matmul", "einsum, inputs in front", "functional", "turned round"])
def test_copies_are_folded(name: str, calibration: str) -> None:
    """With every unit there twice, half of them go and nothing is lost: what the operator reads was measured."""
    function, turned = PRODUCTS[name]
    model = Weights(function, turned=turned).eval()
    with torch.no_grad():
        for weight in (model.first, model.second):
            rows = weight if turned else weight.T
            rows[len(rows) // 2 :] = rows[: len(rows) // 2]
        model.offset[4:] = model.offset[:4]
    inputs = torch.randn(64, 5, 6, generator=torch.Generator().manual_seed(1))
    result = snp.prune(
        model, [inputs], target_units=0.5, cut="uniform", ordering="pivoted", ridge=1e-9, calibration=calibration
    )
    assert [len(decision.kept) for decision in result.plan.groups] == [4, 5]
    with torch.no_grad():
        wanted, found = model(inputs), result.model(inputs)
    assert float((wanted - found).abs().max() / wanted.std()) < 1e-3


def test_default_settings_measure_at_operators() -> None:
    """Sensitivity, trials and the sequential fit see what the products see: better than deletion."""
    model = Weights(PRODUCTS["matmul"][0]).eval()
    inputs = torch.randn(96, 5, 6, generator=torch.Generator().manual_seed(2)).cumsum(-1)
    errors = []
    for reconstruct in (True, False):
        result = snp.prune(model, [inputs], target_units=0.6, reconstruct=reconstruct, seed=0)
        with torch.no_grad():
            errors.append(float(F.mse_loss(result.model(inputs), model(inputs))))
    assert errors[0] < 0.5 * errors[1]


def test_transformers_linear_layers() -> None:
    """Conv1D of GPT-2 keeps its weight as [inputs, outputs], and the numbers of both."""
    model = Net(
        lambda m, x: m.head(F.gelu(m.down(F.gelu(m.up(x))))), up=Conv1D(8, 6), down=Conv1D(10, 8), head=Conv1D(4, 10)
    )
    graph = cut_anyhow(model, TOKENS)
    assert summary(graph) == {"up": 8, "down": 10}
    result = snp.prune(model, [TOKENS.repeat(16, 1, 1)], target_units=0.5, cut="uniform")
    assert (result.model.up.nf, result.model.down.nx, result.model.down.nf) == (4, 4, 5)
    assert result.model(TOKENS).shape == (2, 5, 4)


FROZEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "two activations": lambda m, x: m.one(x) @ m.two(x).mT @ m.one(x),
    "a vector": lambda m, x: (m.one(x) @ m.vector)[..., None].expand(-1, -1, 8),
    "several summed": lambda m, x: torch.einsum("bti,tio->bo", m.one(x), m.cube)[:, None].expand(-1, 5, -1),
    "a weight joined anew": lambda m, x: m.one(x) @ m.square.t().reshape(4, 16).view(8, 8),
    "half of a weight": lambda m, x: m.one(x)[..., :4] @ m.square.t()[:4],
    "an outer product": lambda m, x: torch.einsum("bti,bto->btio", m.one(x), m.two(x)).sum(-1),
}


def _solved(m: Any, x: Tensor) -> Tensor:
    """As the delta rule of transformers: a triangular system, and products with its inverse while it is exported."""
    units, others = m.one(x), m.two(x)
    system = (units @ units.mT).tril(-1) + torch.eye(5)
    if torch.compiler.is_exporting():
        return torch.linalg.inv(system) @ others
    return torch.linalg.solve_triangular(system, others, upper=False, unitriangular=True)


FROZEN["solved, or a product while it is exported"] = _solved


class Products(nn.Module):
    """Products that are no layers, between layers."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 4)
        self.vector, self.square = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8, 8))
        self.cube = nn.Parameter(torch.randn(5, 8, 8))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x))


@pytest.mark.parametrize("name", FROZEN)
def test_other_products_freeze_and_are_counted(name: str) -> None:
    """What enters them stays, and what they cost is in the sum."""
    model = Products(FROZEN[name])
    graph = analysed(model, TOKENS)
    assert not {"one", "two"} & summary(graph).keys()
    costs = CostModel(model, graph, graph.groups)
    assert costs.macs(costs.dense) == macs_of_batch(model, Batch.of(TOKENS))


def test_gpt2() -> None:
    """Hidden units of every block go, exactly as many as asked for, and tokens are generated with and without cache."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=24, n_layer=2, n_head=3, vocab_size=40, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    words = {"input_ids": torch.randint(0, 40, (16, 10), generator=torch.Generator().manual_seed(1))}
    options = {"target_units": 0.5, "cut": "uniform", "ordering": "variance", "calibration": "joint"}
    result = snp.prune(model, [words], **options)
    assert [(d.group.num_units, len(d.kept)) for d in result.plan.groups] == [(96, 48)] * 2
    first = result.model.transformer.h[0].mlp
    assert (first.c_fc.weight.shape, first.c_proj.weight.shape) == ((24, 48), (48, 24))
    tokens = [
        result.model.generate(words["input_ids"][:2], max_new_tokens=4, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*tokens)


WEIGHED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[int]]] = {
    "gated": (lambda a, b: torch.einsum("btc,btc->btc", a, b), [8]),
    "gated by position": (lambda a, b: torch.einsum("btc,bt->btc", a, b.mean(-1)), [8]),
    "gated by sample": (lambda a, b: torch.einsum("bc,btc->btc", a.mean(1), b), [8]),
    "averaged": (lambda a, b: torch.einsum("btc,btc->bc", a, b)[:, None].expand(-1, 5, -1), [8]),
    "turned": (lambda a, b: torch.einsum("btc,btc->bct", a, b).mT, [8]),
    "read out": (lambda a, b: (a[..., None].expand(-1, -1, -1, 8) @ b[..., None])[..., 0], [8]),
    "every one with every one": (lambda a, b: (a[..., :, None] * b[..., None, :].tanh()).mean(-1), [8]),
    "summed": (lambda a, b: torch.einsum("btc,btc->bt", a, b)[..., None].expand(-1, -1, 8), []),
    "a matrix product": (lambda a, b: torch.einsum("bti,bsi->bts", a, b) @ a, []),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_activations_that_meet_index_by_index(name: str) -> None:
    """They go together where units meet one to one; what meets all units of the other stays; costs fall with units."""
    function, sizes = WEIGHED[name]
    model = Net(
        lambda m, x: m.head(function(F.gelu(m.one(x)), m.two(x))),
        one=nn.Linear(6, 8), two=nn.Linear(6, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = cut_anyhow(model, TOKENS) if sizes else analysed(model, TOKENS)
    assert [group.num_units for group in graph.groups] == sizes
    if sizes:
        result = snp.prune(model.eval(), [TOKENS.repeat(8, 1, 1)], target_units=0.5, cut="uniform")
        assert result.plan.macs["pruned"] == macs_of_batch(result.model, Batch.of(TOKENS))


class States(nn.Module):
    """Units with a row of states each, which a parameter moves on and an input reads out, as in Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.read, self.head = nn.Linear(6, 10), nn.Linear(6, 4), nn.Linear(10, 3)
        self.rates = nn.Parameter(torch.randn(10, 4))

    def forward(self, x: Tensor) -> Tensor:
        units, read = self.enter(x), self.read(x)
        states = torch.zeros(len(x), units.shape[-1], 4)
        found = []
        for step in range(x.shape[1]):
            new = units[:, step, :, None]
            states = torch.exp(-self.rates.exp()) * states + new * self.rates.tanh() * read[:, step, None].sigmoid()
            found.append((states @ read[:, step, :, None])[..., 0])
        return self.head(torch.stack(found, 1))


def test_rows_of_states_belong_to_their_unit() -> None:
    """Rows of the parameter go with the units; what reads all states stays."""
    graph = cut_anyhow(States(), TOKENS)
    assert summary(graph) == {"enter": 10}
    assert owned(graph.groups[0])["others"] == {("enter.bias", 0, 1), ("rates", 0, 1)}
    assert "read.weight" in graph.frozen


@pytest.mark.parametrize("name", ["einsum", "matmul"])
def test_a_single_unit_is_counted_as_it_runs(name: str) -> None:
    """With one input `einsum` multiplies, and is no product to a counter; the plan says the same."""
    function, turned = PRODUCTS[name]
    model = Weights(function, turned=turned).eval()
    result = snp.prune(model, [TOKENS.repeat(8, 1, 1)], target_units=0.01, cut="uniform", round_to=1)
    assert [len(decision.kept) for decision in result.plan.groups] == [1, 1]
    assert result.plan.macs["pruned"] == macs_of_batch(result.model, Batch.of(TOKENS))


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
def test_a_weight_in_a_form_that_no_fit_knows_is_folded(calibration: str) -> None:
    """It is read all the same: what is cut is masked in the dense network, and what stays takes over."""
    twice = lambda x, w: F.linear(x, w.T.T.unsqueeze(0).squeeze(0))  # noqa: E731
    model = Weights(twice, turned=True).eval()
    inputs = torch.randn(64, 5, 6, generator=torch.Generator().manual_seed(1))
    result = snp.prune(model, [inputs], target_units=0.5, cut="uniform", calibration=calibration)
    assert result.check < 1e-6
    deleted = snp.prune(model, [inputs], target_units=0.5, cut="uniform", reconstruct=False)
    with torch.no_grad():
        errors = [float(F.mse_loss(small.model(inputs), model(inputs))) for small in (result, deleted)]
    assert errors[0] < errors[1]


class Mixing(nn.Module):
    """Positions are mixed between two layers, by a matrix that is trained, or is not."""

    def __init__(self, mixes: Callable[[Tensor, Tensor], Tensor], *, trained: bool) -> None:
        super().__init__()
        self.first, self.last, self.mixes = nn.Linear(6, 8), nn.Linear(8, 4), mixes
        if trained:
            self.matrix = nn.Parameter(torch.rand(5, 5))
        else:
            self.register_buffer("matrix", torch.rand(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.mixes(self.matrix, self.first(x))))


MIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "from the left": lambda matrix, x: matrix @ x,
    "from the right": lambda matrix, x: (x.mT @ matrix).mT,
    "einsum": lambda matrix, x: torch.einsum("ts,nsd->ntd", matrix, x),
    "functional": lambda matrix, x: F.linear(x.mT, matrix).mT,
}


@pytest.mark.parametrize("name", MIXES)
def test_units_pass_a_matrix_of_numbers_over_positions(name: str) -> None:
    """One by one, as through a pooling; what the product costs falls with them."""
    model = Mixing(MIXES[name], trained=False)
    graph = cut_anyhow(model, TOKENS)
    assert summary(graph) == {"first": 8}
    costs = CostModel(model, graph, graph.groups)
    assert costs.macs(costs.dense) == macs_of_batch(model, Batch.of(TOKENS)) == 5 * (48 + 32) + 25 * 8
    result = snp.prune(model, [TOKENS.repeat(16, 1, 1)], target_units=0.5, cut="uniform", progress=False)
    assert result.plan.macs["pruned"] == macs_of_batch(result.model, Batch.of(TOKENS)) == 5 * (24 + 16) + 25 * 4


def projected() -> nn.Module:
    """Units are mixed by a matrix of numbers."""
    layers = {"first": nn.Linear(6, 8), "last": nn.Linear(8, 4)}
    model = Net(lambda m, x: m.last(F.linear(m.first(x), m.matrix)), **layers)
    model.register_buffer("matrix", torch.rand(8, 8))
    return model


WHOLE: dict[str, tuple[nn.Module, Tensor, str, str]] = {
    "a trained matrix over positions": (
        Mixing(MIXES["from the left"], trained=True), TOKENS, "first.weight",
        "its units are tied to each other: all go, or none",
    ),
    "one unit": (nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 4)), TOKENS, "0.weight", "is a single unit"),
    "a buffer as a layer": (
        projected(), TOKENS, "first.weight", "its units meet matrix, a buffer, and only parameters are cut and fitted",
    ),
    "a kernel that its parent computes": (
        Net(
            lambda m, x: m.last(F.conv1d(x.mT, m.first.weight.abs(), m.first.bias).mT),
            first=nn.Conv1d(6, 8, 1), last=nn.Linear(8, 4),
        ), TOKENS, "first.weight", "enters a convolution whose kernel is computed on the way",
    ),
    "a weight that its parent computes": (
        Net(lambda m, x: m.last(F.linear(x, m.first.weight.abs())), first=nn.Linear(6, 8), last=nn.Linear(8, 4)),
        TOKENS, "first.weight", "enters a linear layer whose weight is computed on the way",
    ),
    "bags of embeddings": (
        nn.Sequential(nn.EmbeddingBag(9, 8), nn.Linear(8, 4)), torch.arange(8).reshape(2, 4), "0.weight",
        "enters aten.embedding_bag.padding_idx, which the analysis does not know",
    ),
    "a matrix that is read twice": (
        Net(
            lambda m, x: m.last(m.first(x) @ m.last.weight.mT @ m.last.weight),
            first=nn.Linear(6, 8), last=nn.Linear(8, 4),
        ), TOKENS, "first.weight", "last.weight is read in several ways",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_layers_that_stay_whole_are_named_with_a_true_reason(name: str) -> None:
    """Also those whose weights no rule of a layer meets."""
    model, batch, layer, reason = WHOLE[name]
    assert analyse(model.eval(), batch).frozen[layer] == reason
