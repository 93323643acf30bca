"""Every output counts, by a measure that fits it: logits by divergence, all else beside its own spread."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.measure.distillation import distillation_loss
from snp.measure.outputs import objective_of
from snp.measure.readers import readers_of
from snp.measure.sensitivity import measure_sensitivity
from snp.settings import PruneSettings
from tests.graph.test_graph import Net, conv

ROWS = [torch.randn(64, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
IMAGES = [torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
WORDS = torch.randint(0, 11, (6, 5), generator=torch.Generator().manual_seed(0))


def net(ending: Callable[[Tensor], Any], inputs: int = 8, outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Linear(inputs, 16), nn.Linear(16, outputs)
    return Net(lambda m, x: ending(m.last(F.relu(m.first(x)))), first=first, last=last).eval()


def words(ending: Callable[[Tensor], Any], **layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    body = {"table": nn.Embedding(11, 8), "up": nn.Linear(8, 16), "down": nn.Linear(16, 7)}
    return Net(lambda m, x: ending(m.down(F.relu(m.up(m.table(x))))), **body, **layers).eval()


CASES: dict[str, tuple[Any, Any, list[str]]] = {
    "classes": (net(lambda y: y), ROWS[0], ["divergence of the output over dimension 1"]),
    "log-probabilities": (net(lambda y: y.log_softmax(1)), ROWS[0], ["divergence of the output over dimension 1"]),
    "one value": (net(lambda y: y, outputs=1), ROWS[0], ["squared error of the output beside its spread"]),
    "one number": (net(lambda y: y[:, 0]), ROWS[0], ["squared error of the output beside its spread"]),
    "embeddings": (net(lambda y: F.normalize(y, dim=1)), ROWS[0], ["squared error of the output beside its spread"]),
    "two heads": (net(lambda y: (y, y[:, :2] * 2)), ROWS[0], ["squared error of output[0]", "error of output[1]"]),
    "named": (
        net(lambda y: {"logits": y, "boxes": y * 3, "past_key_values": (y,)}),
        ROWS[0],
        ["divergence of output['logits'] over dimension 1", "squared error of output['boxes']"],
    ),
    "next words": (words(lambda y: y), WORDS, ["divergence of the output over dimension 2"]),
    "hidden states": (words(lambda y: F.layer_norm(y, (7,))), WORDS, ["squared error of the output"]),
    "features in rows": (net(lambda y: y), torch.randn(3, 5, 8), ["squared error of the output"]),
    "with numbers of classes": (net(lambda y: (y.argmax(1), y)), ROWS[0], ["divergence of output[1] over dimension 1"]),
}


@pytest.mark.parametrize("name", CASES)
def test_auto_says_what_it_takes_outputs_for(name: str) -> None:
    """All floating outputs, caches aside, in the order in which they are given out."""
    model, inputs, said = CASES[name]
    found = str(objective_of(model, [Batch.of(inputs)])).split("; ")
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_maps_are_regressed_and_named_ones_classified() -> None:
    """Channels lie along dimension one of both."""
    dense = Net(lambda m, x: m.last(F.relu(m.first(x))), first=conv(3, 8), last=conv(8, 4, 1)).eval()
    assert "squared" in str(objective_of(dense, [Batch.of(IMAGES[0])]))
    assert "over dimension 1" in str(objective_of(dense, [Batch.of(IMAGES[0])], "kl"))
    named = Net(lambda m, x: {"logits": m.last(x)}, last=conv(3, 4, 1)).eval()
    assert "over dimension 1" in str(objective_of(named, [Batch.of(IMAGES[0])]))


def test_distances_are_the_formulas() -> None:
    """Divergence summed over samples and positions; half the mean square beside the channel's variance."""
    y, z = (torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    model = net(lambda y: y)
    kl = objective_of(model, [Batch.of(rows) for rows in ROWS], "kl")
    wanted = F.kl_div(z.log_softmax(1), y.log_softmax(1), reduction="sum", log_target=True)
    assert kl.distance(y, z, Batch.of(y)) == pytest.approx(float(wanted), rel=1e-5)
    squared = objective_of(model, [Batch.of(rows) for rows in ROWS], "squared")
    with torch.no_grad():
        variance = model(torch.cat(ROWS)).var(dim=0, correction=0)
    assert squared.distance(y, z, Batch.of(y)) == pytest.approx(
        float(((y - z).square() / variance).mean(1).sum() / 2), rel=1e-5
    )


class Tokens(nn.Module):
    """Every token alone: what stands in padding is seen by nothing but what is asked of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(9, 6), nn.Linear(6, 12), nn.Linear(12, 9)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.last(F.relu(self.first(self.table(input_ids))))
        return found


@pytest.mark.parametrize("wanted", ["kl", "squared"])
def test_padding_is_asked_for_nothing(wanted: str) -> None:
    """More padding, of whatever tokens, changes no distance, no spread and no sensitivity."""
    torch.manual_seed(0)
    model, other = Tokens().eval(), Tokens().eval()
    words, lengths = torch.randint(9, (6, 5)), torch.tensor([5, 2, 4, 5, 1, 3])
    found = []
    for length in (5, 11):
        padded = torch.randint(9, (6, length))
        padded[:, :5] = words
        mask = (torch.arange(length) < lengths[:, None]).long()
        batch = Batch((), {"input_ids": padded, "attention_mask": mask})
        objective = objective_of(model, [batch], wanted)
        with torch.no_grad():
            distance = objective.distance(batch.call(model), batch.call(other), batch)
        graph = analyse(model, batch)
        readers = readers_of(model, graph, graph.groups)
        fisher = measure_sensitivity(model, [batch], readers, torch.Generator().manual_seed(0), objective=objective)
        found.append((distance, objective.outputs[0].variance, fisher["last.weight"]))
    (near, spread, fisher), (far, spread_far, fisher_far) = found
    assert far == pytest.approx(near, rel=1e-5)
    if wanted == "squared":
        assert torch.allclose(spread, spread_far)
    assert torch.allclose(fisher, fisher_far, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_no_outputs_unit_and_offset_count(scale: float) -> None:
    """Each value beside its own spread, be it a thousand times another's, at whatever mean."""
    factor = torch.tensor([1.0, scale, 1.0, 1 / scale])
    plain, scaled = net(lambda y: (y,)), net(lambda y: (y * factor + 10 * factor,))
    batches = [Batch.of(rows) for rows in ROWS]
    y, z = torch.randn(8, 4), torch.randn(8, 4)
    found = [
        objective_of(model, batches, "squared").distance((y * f,), (z * f,), Batch.of(y))
        for model, f in ((plain, 1.0), (scaled, factor))
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("wanted", ["kl", "squared"])
def test_sensitivity_predicts_what_small_errors_do(wanted: str) -> None:
    """Half of e^T F e is the distance that an error e of a layer's output makes, for both kinds of outputs."""
    torch.manual_seed(0)
    model = net(lambda y: (y, torch.tanh(y[:, :3])))
    batches = [Batch.of(torch.randn(512, 8))] * 8
    graph = analyse(model, batches[0])
    readers = readers_of(model, graph, graph.groups)
    objective = objective_of(model, batches, wanted)
    fisher = measure_sensitivity(model, batches, readers, torch.Generator().manual_seed(0), objective=objective)
    error = 1e-2 * torch.randn(4)
    with torch.no_grad():
        dense = batches[0].call(model)
        model.last.bias += error
        moved = objective.distance(dense, batches[0].call(model), batches[0]) / 512
    predicted = float(error.double() @ fisher["last.weight"] @ error.double()) / 2
    assert predicted == pytest.approx(moved, rel=0.15)


def planted(model: nn.Module) -> nn.Module:
    """The second half of the hidden units are copies of the first."""
    with torch.no_grad():
        for layer in (model.l1, model.l2):
            half = len(layer.weight) // 2
            layer.weight[half:], layer.bias[half:] = layer.weight[:half], layer.bias[:half]
    return model


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_regression_keeps_one_of_each_copy(outputs: int) -> None:
    """Three tenths of the MACs are enough for a network that is needed by half."""
    torch.manual_seed(0)
    layers = {"l1": nn.Linear(8, 32), "l2": nn.Linear(32, 32), "l3": nn.Linear(32, outputs)}
    model = planted(Net(lambda m, x: m.l3(F.relu(m.l2(F.relu(m.l1(x))))), **layers).eval())
    result = snp.prune(model, ROWS, target_macs=0.37, objective="squared", round_to=1)
    with torch.no_grad():
        y, z = model(ROWS[0]), result.model.eval()(ROWS[0])
    assert float((y - z).square().mean() / y.var()) < 1e-4


def heads(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    x = F.relu(m.trunk(x))
    return m.a2(F.relu(m.a1(x))), m.b2(F.relu(m.b1(x)))


def test_the_second_head_counts_as_much_as_the_first() -> None:
    """Both lose about as much; by the first head's logits alone the second would be all but cut away."""
    torch.manual_seed(0)
    layers = {"trunk": nn.Linear(8, 16), "a1": nn.Linear(16, 32), "a2": nn.Linear(32, 5)}
    model = Net(heads, **layers, b1=nn.Linear(16, 32), b2=nn.Linear(32, 4)).eval()
    result = snp.prune(model, ROWS, target_macs=0.5, round_to=1)
    kept = {decision.group.name: len(decision.kept) for decision in result.plan.groups}
    assert min(kept["a1"], kept["b1"]) > 0.6 * max(kept["a1"], kept["b1"])
    assert result.plan.settings["objective"].count("squared error") == 2


def test_a_function_of_both_outputs_decides() -> None:
    """Only the second head is asked for, so the first one's units go."""

    def second_only(dense: Any, other: Any) -> Tensor:
        return (dense[1] - other[1]).square().sum(1).mean()

    torch.manual_seed(0)
    layers = {"trunk": nn.Linear(8, 16), "a1": nn.Linear(16, 32), "a2": nn.Linear(32, 5)}
    model = Net(heads, **layers, b1=nn.Linear(16, 32), b2=nn.Linear(32, 4)).eval()
    result = snp.prune(model, ROWS, target_macs=0.5, round_to=1, objective=second_only)
    kept = {decision.group.name: len(decision.kept) for decision in result.plan.groups}
    assert kept["a1"] < 0.5 * kept["b1"]
    assert result.plan.settings["objective"] == "second_only"


NEVER = torch.finfo(torch.float32).min


@pytest.mark.parametrize(("objective", "mask", "other"), [
    ("squared", NEVER, -torch.inf), ("kl", NEVER, -1e4), ("kl", -torch.inf, -1e4)
])  # fmt: skip
def test_masked_outputs_say_nothing(objective: str, mask: float, other: float) -> None:
    """However they are masked: the same units and weights, spreads of what is not, and tuning learns."""

    def masked_by(value: float) -> nn.Module:
        torch.manual_seed(0)
        layers = {"first": nn.Linear(8, 16), "last": nn.Linear(16, 4)}
        body: Callable[[Net, Tensor], Tensor] = lambda m, x: m.last(F.relu(m.first(x)))  # noqa: E731
        return Net(lambda m, x: body(m, x).masked_fill(x[:, :4] > 0.8, value), **layers).eval()

    asked: dict[str, Any] = {"target_units": 0.5, "round_to": 1, "objective": objective, "progress": False}
    usual, found = (snp.prune(masked_by(value), ROWS, **asked) for value in (other, mask))
    for one, other in zip(usual.plan.groups, found.plan.groups, strict=True):
        assert torch.equal(one.kept, other.kept)
    for name, tensor in usual.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    (output,) = objective_of(masked_by(mask), [Batch.of(rows) for rows in ROWS], "squared").outputs
    values = torch.cat([masked_by(mask)(rows).detach() for rows in ROWS]).double()
    spread = [float(column[column > -1e4].var(correction=0)) for column in values.T]
    assert output.variance.tolist() == pytest.approx(spread)
    tuned = snp.prune(masked_by(mask), ROWS, **asked, reconstruct="tuned", tune_epochs=2).tuned
    assert tuned is not None
    assert all(0 < distance < 1 for distance in tuned.distances)


def test_a_class_that_is_never_wanted_has_no_part_in_distillation() -> None:
    """Nor in its gradient, where the network that learns has the same mask."""
    wanted, logits = ROWS[0][:, :4], ROWS[1][:, :4].clone().requires_grad_()
    never = torch.tensor([False, False, False, True])
    found = distillation_loss(logits.masked_fill(never, -torch.inf), wanted.masked_fill(never, -torch.inf), 2.0)
    torch.testing.assert_close(found, distillation_loss(logits[:, :3], wanted[:, :3], 2.0))
    (gradient,) = torch.autograd.grad(found, logits)
    assert torch.isfinite(gradient).all()
    assert gradient[:, 3].abs().max() == 0


def test_outputs_without_gradients_are_refused_by_name() -> None:
    """As of detectors that select among candidates; orders that look at moments only are named."""
    model = net(lambda y: y.detach() * 2)
    with pytest.raises(ValueError, match=r"no gradient reaches .*prune.ordering=zca"):
        snp.prune(model, ROWS, target_macs=0.5)
    assert snp.prune(model, ROWS, target_var=0.5, calibration="joint").plan.groups


def test_outputs_whose_shapes_depend_on_values_are_refused_by_name() -> None:
    """The number of detections is no distance."""
    found = objective_of(net(lambda y: y), [Batch.of(ROWS[0])])
    with pytest.raises(ValueError, match=r"shape of the output depends on its values: \(3, 4\).*\(2, 4\)"):
        found.distance(torch.zeros(3, 4), torch.zeros(2, 4), Batch.of(ROWS[0]))
    with pytest.raises(ValueError, match="not finite"):
        found.distance(torch.zeros(2, 4), torch.full((2, 4), float("nan")), Batch.of(ROWS[0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("options", [{}, {"trials": False, "reconstruct": "tuned"}])
def test_an_objective_of_the_user_that_is_not_finite_is_named(value: float, options: dict[str, Any]) -> None:
    """Below every number is no better than above."""

    def my_own(dense: Any, pruned: Any) -> float:
        return value

    with pytest.raises(ValueError, match=rf"prune\.objective \(my_own\) is not finite: it gave {value}"):
        snp.prune(net(lambda y: y), ROWS, target_macs=0.5, objective=my_own, **options)


@pytest.mark.parametrize("wrong", ["mse", "", None, 3])
def test_an_unknown_objective_is_named(wrong: Any) -> None:
    """With the ones that there are."""
    with pytest.raises(ValueError, match=r"prune\.objective"):
        PruneSettings(objective=wrong)


@pytest.mark.parametrize(
    ("ending", "found"),
    [
        (lambda y: torch.complex(y, y), "complex64 [64, 4]"),
        (lambda y: y.argmax(1), "int64 [64]"),
        (lambda y: {"where": y > 0, "which": y.argmax(1)}, "bool [64, 4] and int64 [64]"),
        (lambda y: [], "no tensor in a list"),
    ],
)
def test_outputs_without_real_numbers_are_named(ending: Callable[[Tensor], Any], found: str) -> None:
    """By their types, with what helps."""
    model = net(ending)
    with pytest.raises(ValueError, match=f"and there are none: it gives {re.escape(found)}. Let it give real ones"):
        snp.prune(model, ROWS, target_units=0.5, progress=False)
    assert snp.prune(model, ROWS, target_units=0.5, preset="paper", progress=False).check == 0


def test_complex_numbers_count_as_pairs_of_real_ones() -> None:
    """As the refusal says."""
    model = net(lambda y: torch.view_as_real(torch.complex(y, 2 * y)))
    assert snp.prune(model, ROWS, target_units=0.5, round_to=1, progress=False).plan.groups[0].kept.numel() == 8
