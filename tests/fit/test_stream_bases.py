"""Does turning a residual stream change nothing, and does cutting it cost what its directions hold?"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

import snp
from snp.core.kept_subspace import Place, climbed, explained
from snp.core.precision import in_double
from snp.core.rotations import level_axis, random_rotation
from snp.core.rounding import Rounding
from snp.core.stream_bases import Site, stream_basis
from snp.core.sums import ALONE
from snp.fit.regression import fitted
from snp.fit.rows import Rows
from snp.fit.spans import in_span, span_of
from snp.graph.stream_norms import StreamNorm, stream_norms_in, with_stock_norms, with_stream_norms
from snp.graph.units import Slice, UnitGroup
from snp.measure.reader import Reader
from snp.models import huggingface
from snp.plan.level import rounded_up
from snp.plan.plan import GroupPlan, PruningPlan
from snp.pruning import PruneResult
from snp.settings import PruneSettings
from snp.surgery.folded_norms import turned
from snp.surgery.stock_form import in_stock_form
from snp.surgery.subject import survey
from snp.surgery.surgery import with_weights
from tests.audit import outputs as outputs_of
from tests.audit import randomise
from tests.transformer_models import token_batches, transformer

WIDTH = PruneSettings(structures=("width",), trials=False)


def outputs(model: nn.Module, batch: Tensor) -> Tensor:
    """Also of norms that compute in single precision whatever they get."""
    with in_double():
        return outputs_of(model, batch)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 32, "n_positions": 32}
    tokens = {"bos_token_id": 1, "eos_token_id": 1}
    return randomise(huggingface.build(config=config | tokens))


def vit(**options: Any) -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return randomise(timm.create_model("vit_tiny_patch16_224", **(sizes | options)))


def network(name: str) -> tuple[nn.Module, list[Tensor]]:
    """In double precision, and batches of it."""
    if name.startswith("vit"):
        images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        pooled = {"vit_pooled": {"global_pool": "avg"}, "vit_scaled": {"init_values": 0.1}}.get(name, {})
        return vit(**pooled).double(), list(images.split(8))
    return (gpt2() if name == "gpt2" else transformer(name)).double(), token_batches(36)


def whole(model: nn.Module, settings: PruneSettings = WIDTH) -> tuple[nn.Module, PruningPlan]:
    """A network whose stream may be turned, and a plan that cuts nothing."""
    found = survey(model, network_batch(model), settings)
    plans = [GroupPlan(group, torch.arange(group.num_units)) for group in found.groups]
    return found.model, PruningPlan(tuple(plans))


def network_batch(model: nn.Module) -> Tensor:
    if hasattr(model, "config"):
        return token_batches(2)[0]
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rotated(model: nn.Module, seed: int) -> nn.Module:
    """A stock network that computes the same from other weights."""
    folded, plan = whole(model)
    (group,) = (decision.group for decision in plan.groups)
    return in_stock_form(with_weights(folded, turned(folded, group, random_rotation(group.num_units, seed))), plan)


def error(small: nn.Module, dense: nn.Module, batch: Tensor) -> float:
    wanted, found = outputs(dense, batch), outputs(small, batch)
    return float((wanted - found).square().sum() / wanted.square().sum())


def cut(model: nn.Module, batches: list[Tensor], **options: Any) -> PruneResult:
    return snp.prune(model, batches, WIDTH, progress=False, **({"target_units": 0.6} | options))


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "vit_pooled", "vit_scaled"])
def test_any_rotation_leaves_outputs_as_they_were(name: str) -> None:
    """Norms' weights, biases and means are folded, the stream is turned, and stock norms take their places again."""
    model, batches = network(name)
    turned_one = rotated(model, 3)
    assert {type(module) for module in turned_one.modules()} <= {type(module) for module in model.modules()}
    torch.testing.assert_close(outputs(turned_one, batches[0]), outputs(model, batches[0]), rtol=1e-9, atol=1e-9)
    folded, _ = whole(model)
    torch.testing.assert_close(outputs(folded, batches[0]), outputs(model, batches[0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["qwen2", "opt", "gpt2", "vit", "vit_scaled"])
def test_small_network_is_the_masked_one_and_stock(name: str) -> None:
    """To rounding of double precision; only the classes of the dense network are left, at the smaller width."""
    model, batches = network(name)
    result = cut(model, batches)
    (decision,) = result.plan.groups
    assert decision.group.kind == "width"
    assert 0 < len(decision.kept) < decision.group.num_units
    assert result.check < 1e-9
    assert {type(module) for module in result.model.modules()} <= {type(module) for module in model.modules()}
    norms = [m for m in result.model.modules() if type(m).__name__.endswith("Norm")]
    layer_norm = any(isinstance(norm, nn.LayerNorm) for norm in norms)
    assert {len(norm.weight) for norm in norms} == {len(decision.kept) + layer_norm}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_directions_without_energy_cost_nothing(name: str) -> None:
    """A stream that fills part of its dimensions loses the others, and the network computes the same."""
    model, batches = network(name)
    folded, plan = whole(model)
    (group,) = (decision.group for decision in plan.groups)
    kept, first = 9, int(group.producers[0].index[0, 0])
    tensors = dict(folded.named_parameters())
    with torch.no_grad():
        for member in group.producers + tuple(m for m in group.others if m.tensor.endswith("bias")):
            tensors[member.tensor].movedim(member.dim, 0)[kept + first :] = 0.0
    dense = in_stock_form(with_weights(folded, turned(folded, group, random_rotation(group.num_units, 1))), plan)
    result = cut(dense, batches, target_units=kept / group.num_units)
    assert len(result.plan.groups[0].kept) == kept
    assert error(result.model, dense, batches[0]) < 1e-9
    assert error(cut(dense, batches, target_units=(kept - 2) / group.num_units).model, dense, batches[0]) > 1e-6


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_a_network_that_was_rotated_before_gives_the_same(name: str) -> None:
    """Which basis a stream came in does not matter: what is left computes the same."""
    model, batches = network(name)
    other = rotated(model, 5)
    first, second = (cut(given, batches, ordering="zca").model for given in (model, other))
    torch.testing.assert_close(outputs(first, batches[1]), outputs(second, batches[1]), rtol=1e-4, atol=1e-4)
    # Subspaces that are climbed to end where rounding lets them, all as good.
    errors = [error(cut(given, batches).model, model, batches[1]) for given in (model, other)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_least_squares_beat_deletion_and_the_order_beats_chance(name: str) -> None:
    """Basis and fit are worth something."""
    model, batches = network(name)
    fitted, deleted = cut(model, batches), cut(model, batches, reconstruct=False)
    assert error(fitted.model, model, batches[0]) < 0.8 * error(deleted.model, model, batches[0])
    anyhow = cut(model, batches, ordering="random")
    assert error(fitted.model, model, batches[0]) < error(anyhow.model, model, batches[0])


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_one_budget_for_hidden_units_and_width(name: str) -> None:
    """Parameters outside embeddings are left as asked for; a head that was tied to one still counts as one."""
    model, batches = network(name)
    result = snp.prune(model, batches, structures=("ffn", "width"), target_params=0.7, progress=False)
    assert {decision.group.kind for decision in result.plan.groups} == {"ffn", "width"}

    def size(network: nn.Module) -> int:
        tables = ("embed_tokens.weight", "embed_positions.weight", *(["lm_head.weight"] if name == "opt" else []))
        return sum(p.numel() for key, p in network.named_parameters() if not key.endswith(tables))

    assert 0.69 <= size(result.model) / size(model) <= 0.7


@pytest.mark.parametrize(("first", "kept"), [(0, 136), (1, 135)])
def test_rounded_widths_count_the_unit_that_stays(first: int, kept: int) -> None:
    """Of 256 dimensions a multiple of 8 is left, whether one of them is LayerNorm's own or not."""
    units = torch.arange(first, 256)[:, None]
    group = UnitGroup("table", 256 - first, (Slice("table.weight", 1, units),), (), (), kind="width")
    assert rounded_up(Rounding(8), group, 130) == kept
    assert rounded_up(Rounding(8), group, 255 - first) == 256 - first


SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
GATED = SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}
FAMILIES: dict[str, tuple[dict[str, Any], bool]] = {
    **{name: (GATED, True) for name in ("mistral", "phi", "phi3", "starcoder2", "cohere", "granite")},
    "qwen3": (GATED | {"head_dim": 4}, True),
    "gpt_neox": (SIZES | {"max_position_embeddings": 32}, False),
    "falcon": (SIZES, False),
}


def of_family(name: str, config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = huggingface.build(config=config | {"model_type": name}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # not the buffers, which hold angles
            parameter.normal_(std=0.3) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_language_models(name: str, tmp_path: Path) -> None:
    """Cut to rounding, and saved in stock form where the configuration can say the size of heads."""
    config, is_stock = FAMILIES[name]
    model = of_family(name, config)
    result = cut(model, token_batches(24), structures=("ffn", "width"), target_units=0.75)
    assert result.check < 1e-9
    if is_stock:
        huggingface.save_pretrained(result.model, tmp_path)
        assert transformers.AutoConfig.from_pretrained(tmp_path).hidden_size == 12
    else:
        with pytest.raises(ValueError, match="a width that is no longer that of all heads"):
            huggingface.save_pretrained(result.model, tmp_path)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gemma2", GATED | {"head_dim": 4}),
        ("olmo2", GATED),
        ("bloom", {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 4}),
        ("mixtral", GATED | {"num_local_experts": 2}),
    ],
)
@pytest.mark.slow
def test_families_whose_streams_cannot_be_turned(name: str, config: dict[str, Any]) -> None:
    """Norms behind branches or embeddings, and experts that read masked tokens."""
    model = of_family(name, config)
    with pytest.raises(ValueError, match="does not commute with a rotation of the stream"):
        cut(model, token_batches(12))


def test_generation_with_and_without_a_cache() -> None:
    """The same tokens."""
    small: Any = cut(transformer("llama"), token_batches(36)).model
    asked = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    start = token_batches(2)[0]
    assert torch.equal(small.generate(start, use_cache=True, **asked), small.generate(start, use_cache=False, **asked))


@pytest.mark.parametrize("name", ["llama", "opt", "vit"])
def test_saved_network_comes_back(name: str, tmp_path: Path) -> None:
    """With its recipe, or with the dense network beside it."""
    model, batches = network(name)
    result = cut(model.float(), [batch.float() if batch.is_floating_point() else batch for batch in batches])
    snp.save(result, tmp_path)
    again = snp.load(tmp_path) if name != "vit" else snp.load(tmp_path, model)
    batch = batches[0].float() if name == "vit" else batches[0]
    torch.testing.assert_close(outputs(again, batch), outputs(result.model, batch), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_stock_model_reads_the_smaller_width(name: str, tmp_path: Path) -> None:
    """Heads keep their size, epsilons grow with what is gone, and heads are tied to nothing."""
    result = cut(transformer(name), token_batches(36), structures=("ffn", "width"), target_units=0.75)
    huggingface.save_pretrained(result.model, tmp_path)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (stock.config.hidden_size, stock.config.head_dim) == (12, 4)
    assert not stock.config.tie_word_embeddings
    batch = token_batches(2)[0]
    torch.testing.assert_close(outputs(stock, batch), outputs(result.model, batch), rtol=0, atol=1e-12)


def test_heads_of_another_size_are_refused_for_stock_models(tmp_path: Path) -> None:
    """OPT makes the size of its heads from the width."""
    result = cut(transformer("opt"), token_batches(36), structures=("ffn", "width"), target_units=0.75)
    with pytest.raises(ValueError, match="a width that is no longer that of all heads"):
        huggingface.save_pretrained(result.model, tmp_path)


def test_tied_heads_become_layers_and_the_plan_says_so() -> None:
    """The norm's weight is in the head, and cannot be in the embedding."""
    model, batches = network("opt")
    result = cut(model, batches)
    small: Any = result.model
    assert small.lm_head.weight is not small.model.decoder.embed_tokens.weight
    assert result.plan.settings["untied"] == ["lm_head.weight"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bert", "an output of the network"), ("opt_post_norm", "does not commute with a rotation")],
)
def test_streams_that_cannot_be_turned_are_refused(name: str, reason: str) -> None:
    """Norms behind branches are part of the stream."""
    with pytest.raises(ValueError, match=reason):
        cut(transformer(name), token_batches(12))


def test_half_precision_is_refused_by_its_name() -> None:
    """Not as something that does not commute with a rotation."""
    with pytest.raises(ValueError, match=r"torch\.bfloat16 is too coarse for: .* \(model\.float\(\)\)"):
        cut(transformer("llama").bfloat16(), token_batches(12))


def test_networks_without_such_norms_are_refused() -> None:
    """BatchNorm is no norm over units."""
    model = timm.create_model("resnet18", num_classes=3).eval()
    with pytest.raises(ValueError, match="has no LayerNorm or RMSNorm"):
        cut(model, [torch.randn(4, 3, 32, 32)])


def test_networks_whose_norms_have_no_weights_are_refused_for_that() -> None:
    """As those of OLMo: nothing holds the factor that a smaller width asks for."""
    layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 4)).eval()
    with pytest.raises(ValueError, match=r"the norms of Sequential have no weights \(1 and others\)"):
        cut(layers, [torch.randn(16, 6)])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_an_epsilon_that_pytorch_chooses_is_written_down(kind: torch.dtype) -> None:
    """`nn.RMSNorm(d)` divides small tokens by that of the precision it computes in."""
    norm, tokens = randomise(nn.RMSNorm(8)).to(kind), (1e-4 * torch.randn(3, 5, 8)).to(kind)
    ours = with_stream_norms(nn.Sequential(norm))
    assert len(stream_norms_in(ours)) == 1
    tolerance = 4 * torch.finfo(kind).eps
    for found in (ours(tokens), with_stock_norms(ours)(tokens)):
        torch.testing.assert_close(found, norm(tokens), rtol=tolerance, atol=tolerance)


class GatedNorm(nn.Module):
    """Of hidden units that get a gate, as in Mamba-2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(24) + 0.5), 1e-6

    def forward(self, hidden: Tensor, gate: Tensor | None = None) -> Tensor:
        hidden = hidden if gate is None else hidden * gate.sigmoid()
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


class Gated(nn.Module):
    """Such a norm in a branch of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.gate = nn.RMSNorm(16), nn.Linear(16, 24), nn.Linear(16, 24)
        self.gated, self.down = GatedNorm(), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(self.gated(self.up(y), self.gate(y)))


def test_norms_that_get_a_gate_stay_what_they_are() -> None:
    """They are none of the stream, which is cut all the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), Gated(), nn.RMSNorm(16), nn.Linear(16, 4)).eval()
    result = cut(model, [torch.randn(16, 5, 6)], structures=("width",), target_units=0.5)
    small: Any = result.model
    assert isinstance(small[1].gated, GatedNorm)
    assert (type(small[2]), small[2].normalized_shape) == (nn.RMSNorm, (8,))


def test_positions_that_are_mixed_behind_a_norm_keep_the_stream_whole() -> None:
    """The norm's bias would be mixed, too, and cannot go into what reads behind it."""

    class Mixed(Gated):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(self.matrix @ self.norm(x)).relu())

    mixed = Mixed()
    mixed.register_buffer("matrix", torch.rand(5, 5))
    model = nn.Sequential(nn.Linear(6, 16), mixed, nn.RMSNorm(16), nn.Linear(16, 4)).eval()
    with pytest.raises(ValueError, match=r"its units meet 1\.matrix, a buffer"):
        cut(model, [torch.randn(16, 5, 6)], structures=("width",), target_units=0.5)


def test_hidden_units_behind_a_norm_are_no_stream() -> None:
    """What is rectified in front of a norm may not be turned."""
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    with pytest.raises(ValueError, match="no residual stream"):
        cut(layers, [torch.randn(16, 6)])


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.RMSNorm(8, eps=1e-3), nn.RMSNorm(8), nn.LayerNorm(8, bias=False, eps=1e-2)]
)
def test_our_form_of_a_norm_is_the_stock_one(norm: nn.Module) -> None:
    """And back again, with every unit in its place."""
    randomise(norm).double()
    tokens = torch.randn(3, 5, 8, dtype=torch.float64) + 1
    ours = with_stream_norms(nn.Sequential(norm))
    assert len(stream_norms_in(ours)) == 1
    torch.testing.assert_close(ours(tokens), norm(tokens), rtol=1e-12, atol=1e-12)
    again = with_stock_norms(ours)
    assert type(again[0]) is type(norm)  # type: ignore[index]
    torch.testing.assert_close(again(tokens), norm(tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [2, 5, 8])
def test_stock_layer_norm_of_fewer_units(kept: int) -> None:
    """Units of zero are as good as none: turned to be without a mean, d' units go through a stock norm of d'."""
    values = torch.zeros(7, 8, dtype=torch.float64)
    values[:, 1:kept] = torch.randn(7, kept - 1, dtype=torch.float64)
    dense = nn.LayerNorm(8, eps=0.1, elementwise_affine=True).double()
    ours = StreamNorm(dense, 0.1, centres=False, offset=0.0)
    wanted = ours(values)
    axis = level_axis(8)
    torch.testing.assert_close(dense(values @ axis.T) @ axis, wanted, rtol=1e-12, atol=1e-12)
    ours.weight, ours.bias = nn.Parameter(torch.ones(kept, dtype=torch.float64)), None
    small = ours.stock()
    fewer = level_axis(kept)
    found = small(values[:, :kept] @ fewer.T) @ fewer
    torch.testing.assert_close(found, wanted[:, :kept], rtol=1e-12, atol=1e-12)


def correlated(size: int, seed: int) -> Tensor:
    values = torch.randn(size, 3 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values @ values.T


def test_level_axis_is_an_orthogonal_exchange() -> None:
    """Its own inverse, and the first axis becomes level."""
    axis = level_axis(7)
    torch.testing.assert_close(axis @ axis, torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(axis[0], torch.full((7,), 7**-0.5, dtype=torch.float64))


def test_without_sensitivities_the_basis_is_the_principal_one() -> None:
    """Energies are the eigenvalues, falling, and each direction is worth its own."""
    gram = correlated(6, 0)
    basis = stream_basis([Site(gram)])
    torch.testing.assert_close(basis.energy, torch.linalg.eigvalsh(gram).flip(0))
    torch.testing.assert_close(basis.weight, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(basis.rows @ basis.rows.T, torch.eye(6, dtype=torch.float64))


def places(size: int, count: int) -> list[Site]:
    return [Site(correlated(size, number), correlated(size, 100 + number)) for number in range(count)]


def left_unexplained(sites: list[Site], basis: Tensor) -> float:
    """What readers miss that are fitted anew on a few directions, by solving, and what norms distort."""
    missed = 0.0
    for site in sites:
        assert site.fisher is not None
        known = site.gram @ basis
        rest = site.gram - known @ torch.linalg.solve(basis.T @ known, known.T)
        missed += float((site.fisher * rest).sum())
        gone = 1 - (basis.T @ known).trace() / site.gram.trace()
        missed += 0.25 * float((site.fisher * site.gram).sum() * gone**2)
    return missed


def test_gradient_of_what_a_subspace_explains() -> None:
    """As differences find it along the manifold, beside the slow formula of what is missed."""
    sites = places(7, 3)
    found = [Place.of(site.gram, site.fisher) for site in sites if site.fisher is not None]
    basis, along = random_rotation(7)[:, :4], torch.randn(7, 4, dtype=torch.float64)
    along -= basis @ (basis.T @ along)
    value, gradient = explained(found, basis)
    total = sum(place.total for place in found)
    assert total - value == pytest.approx(left_unexplained(sites, basis), rel=1e-6)
    beside = [left_unexplained(sites, torch.linalg.qr(basis + sign * 1e-5 * along).Q) for sign in (1, -1)]
    assert (beside[1] - beside[0]) / 2e-5 == pytest.approx(float((gradient * along).sum()), rel=1e-4)


def test_climb_finds_the_known_best_subspace() -> None:
    """At one place where all errors weigh alike that is the one of the largest energies."""
    gram = correlated(8, 0)
    start = random_rotation(8, 2)[:, :3]
    place = Place.of(gram, torch.eye(8, dtype=torch.float64))
    basis, value = climbed([place], start, 300)
    energies = torch.linalg.eigvalsh(gram)
    best = float(energies[-3:].sum() - 0.25 * energies[:-3].sum() ** 2 / energies.sum())
    assert 0.99 * best < value <= best + 1e-6
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    assert value > explained([place], start)[0]


@pytest.mark.parametrize("kept", [14, 11, 8, 4])
def test_nested_subspaces_miss_less_than_principal_ones(kept: int) -> None:
    """Of many places that ask for different things; and the worth of what is left out is what is missed."""
    sites = places(15, 4)
    basis = stream_basis(sites)
    principal = torch.linalg.eigh(torch.stack([s.gram for s in sites]).sum(dim=0)).eigenvectors.flip(1)
    torch.testing.assert_close(basis.rows @ basis.rows.T, torch.eye(15, dtype=torch.float64))
    missed = left_unexplained(sites, basis.rows[:kept].T)
    assert missed < left_unexplained(sites, principal[:, :kept])
    worth = basis.energy * basis.weight
    assert bool((worth[:-1] >= worth[1:] * (1 - 1e-9)).all())
    assert missed == pytest.approx(float(worth[kept:].sum()), rel=0.5)


def test_fit_in_the_span_of_a_head_is_the_fit_of_its_outputs() -> None:
    """Of many outputs as many directions as inputs count, to rounding."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (40, 90))
    moved = inputs[:, :3] + 0.3 * torch.randn(90, 3, generator=generator, dtype=torch.float64)
    span = span_of(weight, Reader("head.weight", "head", -1, 4, is_wide=True))
    assert span is not None
    rows = [Rows.of(moved, inputs @ weight.T)]
    (turned_rows,) = in_span(rows, span)
    plain = fitted(weight[:, :3], rows, (1e-2,), False, ALONE).solution()[0]
    found = span @ fitted(span.T @ weight[:, :3], [turned_rows], (1e-2,), False, ALONE).solution()[0]
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    assert span_of(weight, Reader("layer.weight", "layer", -1, 4)) is None
