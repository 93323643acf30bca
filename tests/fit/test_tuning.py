"""Does tuning begin at the least-squares weights, never end farther from the dense network, and touch nothing else?"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.fit.tuning import Tuned, tune
from snp.fit.tuning.chance import is_lower
from snp.fit.tuning.features import FeatureTap, Place, common_features
from snp.fit.tuning.lesson import rate_factor
from snp.fit.tuning.matching import feature_error, output_error
from snp.fit.tuning.nearest import Nearest
from snp.fit.tuning.samples import TuningSamples, held_back, without
from snp.fit.tuning.state import TuningState
from snp.fit.tuning.steps import Steps, steps_of
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.measure.outputs import objective_of
from snp.measure.views import Views, views_of, with_mirrored, without_mirrored
from snp.run.training.kept_tuning import KeptTuning
from snp.settings import PruneSettings
from tests.networks import attention, cnn, images, language, tokens, words

FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "cnn": (cnn, images),
    "attention": (attention, tokens),
    "language": (language, words),
}
CUT: dict[str, Any] = {"target_units": 0.5, "ordering": "variance", "round_to": 1}


def pruned(family: str, samples: int = 48) -> tuple[nn.Module, nn.Module, list[Batch]]:
    """A dense network, the same with half of its units cut and folded, and the inputs."""
    network, inputs = FAMILIES[family]
    dense, batches = network().eval(), [inputs(samples)]
    return dense, snp.prune(dense, batches, **CUT).model, [Batch.of(batch) for batch in batches]


def disturbed(model: nn.Module) -> nn.Module:
    """A copy with weights a little off, in place, so that there is something to learn."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * parameter.std().nan_to_num(0.1) * torch.randn(parameter.shape, generator=generator)
    return model


def settings(**options: Any) -> PruneSettings:
    usual = {"tune_epochs": 4, "tune_rate": 0.05, "tune_optimizer": "sgd"}
    return PruneSettings(reconstruct="tuned", **(usual | options))


def tuned_by(small: nn.Module, dense: nn.Module, inputs: list[Batch], asked: PruneSettings) -> Tuned:
    return tune(small, dense, inputs, objective_of(dense, inputs, asked.objective), asked)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def judged_by(dense: nn.Module, batches: list[Batch], seed: int = 0) -> Batch:
    """The samples that tuning with this seed judges by."""
    return Batch.joined(TuningSamples(batches, held_back(dense, batches, seed)).held_back)


def divergence(dense: nn.Module, other: nn.Module, batch: Batch) -> float:
    """Of the predictions, in nats per sample, by the definition."""
    with torch.no_grad():
        wanted, found = (batch.call(model).double().log_softmax(-1) for model in (dense, other))
    return float((wanted.exp() * (wanted - found)).sum() / batch.size)


PLACES = {"cnn": "project", "attention": "blocks.1", "language": "down"}


def apart(family: str, dense: nn.Module, other: nn.Module, batch: Batch) -> float:
    """What tuning makes smaller, by the definition: divergence at temperature 2, and relative error of features."""
    outputs, features = [], []
    for model in (dense, other):
        hook = model.get_submodule(PLACES[family]).register_forward_hook(lambda _, args, out: features.append(out))
        with torch.no_grad():
            outputs.append((batch.call(model).double() / 2).log_softmax(-1))
        hook.remove()
    wanted, found = outputs
    before, after = (tensor.double() for tensor in features)
    divergence = (wanted.exp() * (wanted - found)).sum(-1).mean()
    return float(divergence + (after - before).square().sum() / before.square().sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_without_epochs_it_is_the_closed_form_to_the_bit(family: str) -> None:
    """`reconstruct="tuned"` with no epochs gives what `reconstruct=True` gives."""
    network, inputs = FAMILIES[family]
    closed, tuned = (
        snp.prune(network(), [inputs(32)], reconstruct=way, tune_epochs=0, **CUT) for way in (True, "tuned")
    )
    assert_same(state(tuned.model), state(closed.model))
    assert tuned.tuned is not None
    assert tuned.tuned.epoch == 0
    assert closed.tuned is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.02), ("sgd", 50.0), ("adamw", 5e-4), ("adamw", 0.5)])
def test_what_is_kept_is_the_nearest_on_samples_held_back(family: str, optimizer: str, rate: float) -> None:
    """Whatever the rate does: the network given back is at the smallest distance, and no farther than the start."""
    dense, small, batches = pruned(family)
    tuned = tuned_by(small, dense, batches, settings(tune_optimizer=optimizer, tune_rate=rate))
    judged = judged_by(dense, batches)
    start, end = (apart(family, dense, model, judged) for model in (small, tuned.model))
    assert end <= start * (1 + 1e-3)
    assert start == pytest.approx(tuned.distances[0], rel=1e-3, abs=1e-6)
    assert end == pytest.approx(tuned.distances[tuned.epoch], rel=1e-3, abs=1e-6)
    if tuned.epoch:
        assert tuned.distances[tuned.epoch] == min(tuned.distances)
    else:
        assert_same(state(tuned.model), state(small))


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adamw", 0.005)])
def test_it_learns(optimizer: str, rate: float) -> None:
    """Sixteen epochs at a rate that suits bring other samples nearer, too."""
    for family in FAMILIES:
        dense, small, batches = pruned(family, 96)
        small, others = disturbed(small), Batch.of(FAMILIES[family][1](64, 1))
        asked = settings(tune_epochs=16, tune_optimizer=optimizer, tune_rate=rate)
        tuned = tuned_by(small, dense, batches, asked)
        assert divergence(dense, tuned.model, others) < 0.7 * divergence(dense, small, others), family
        assert (tuned.steps.optimizer, tuned.steps.rate) == (optimizer, rate)


def test_steps_suit_the_network_unless_they_are_asked_for() -> None:
    """SGD where norms have statistics of batches, AdamW in transformers; each at its own rate, for its own epochs."""
    plain = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with_statistics = nn.Sequential(nn.Linear(4, 4), timm.layers.BatchNormAct2d(4))
    asked = PruneSettings(reconstruct="tuned")
    assert steps_of(plain, asked) == steps_of(attention(), asked) == Steps("adamw", 5e-4, 30)
    assert steps_of(with_statistics, asked) == Steps("sgd", 0.02, 150)
    assert steps_of(plain, replace(asked, tune_optimizer="sgd", tune_epochs=0)) == Steps("sgd", 0.02, 0)
    asked = replace(asked, tune_optimizer="adamw", tune_rate=0.1, tune_epochs=2)
    assert steps_of(with_statistics, asked) == Steps("adamw", 0.1, 2)


def test_adamw_leaves_what_has_no_gradient() -> None:
    """Weights do not decay: a parameter that the outputs do not depend on stays as it is."""
    dense = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    small = copy.deepcopy(dense)
    with torch.no_grad():
        small[0].bias += 0.3
    for network in (dense, small):
        network.register_parameter("idle", nn.Parameter(torch.ones(3)))
    rows = [Batch.of(torch.randn(32, 4))]
    tuned = tuned_by(small, dense, rows, settings(tune_optimizer="adamw", tune_rate=0.01))
    assert tuned.epoch > 0
    assert torch.equal(tuned.model.get_parameter("idle"), torch.ones(3))
    assert not torch.equal(tuned.model[0].bias, small[0].bias)


def test_only_parameters_move() -> None:
    """Statistics of norms, modes, the dense network and the one it began with stay as they were."""
    dense, small, batches = pruned("cnn")
    small = disturbed(small)
    before = [state(dense), state(small)]
    tuned = tuned_by(small, dense, batches, settings())
    assert tuned.epoch > 0
    assert_same(state(dense), before[0])
    assert_same(state(small), before[1])
    buffers = dict(small.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in tuned.model.named_buffers())
    moved = [not torch.equal(now, was) for now, was in zip(tuned.model.parameters(), small.parameters(), strict=True)]
    assert all(moved)
    assert [module.training for module in tuned.model.modules()] == [module.training for module in small.modules()]
    assert not any(parameter.grad is not None for parameter in (*dense.parameters(), *small.parameters()))


def test_seed_repeats_and_another_one_differs() -> None:
    """To the bit, whatever the global generator says."""
    dense, small, batches = pruned("attention")
    found = []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(noise)
        found.append(tuned_by(small, dense, batches, settings(seed=seed)))
    assert_same(state(found[0].model), state(found[1].model))
    assert found[0].distances == found[1].distances
    assert found[0].distances != found[2].distances


class Stopping(KeptTuning):
    """Writes after every epoch, and then something stops the tuning, once."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder, seconds=0.0)
        self._left = after

    def offer(self, state: Callable[[], TuningState]) -> None:
        super().offer(state)
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("family", "options", "after"), [
    ("cnn", {}, 1), ("cnn", {}, 6), ("cnn", {"tune_rate": 20.0}, 3),
    ("attention", {"tune_optimizer": "adamw", "tune_rate": 2e-3}, 3),
])  # fmt: skip
def test_stopped_between_epochs_it_ends_as_it_would_have(
    family: str, options: dict[str, Any], after: int, tmp_path: Path
) -> None:
    """Weights to the bit, every distance and the rate: with momentum and without, and after steps that led away."""
    dense, small, inputs = pruned(family)
    small, asked = disturbed(small), settings(tune_epochs=6, **options)
    objective = objective_of(dense, inputs)
    whole = tune(small, dense, inputs, objective, asked)
    with pytest.raises(KeyboardInterrupt):
        tune(small, dense, inputs, objective, asked, keeper=Stopping(tmp_path, after))
    parts = tune(small, dense, inputs, objective, asked, keeper=KeptTuning(tmp_path, seconds=0.0))
    assert_same(state(parts.model), state(whole.model))
    assert (parts.distances, parts.epoch, parts.steps) == (whole.distances, whole.epoch, whole.steps)
    assert whole.steps.rate < asked.tune_rate if options.get("tune_rate") == 20.0 else whole.epoch > 0


def test_a_damaged_state_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said, and tuning begins anew; before a minute has passed nothing is written."""
    dense, small, inputs = pruned("cnn")
    KeptTuning(tmp_path).offer(lambda: pytest.fail("asked for its state at once"))
    assert KeptTuning(tmp_path).last() is None
    tune(small, dense, inputs, objective_of(dense, inputs), settings(), keeper=KeptTuning(tmp_path, seconds=0.0))
    found = KeptTuning(tmp_path).last()
    assert found is not None
    assert len(found.part("nearest").numbers["distances"]) == 5
    content = bytearray((tmp_path / "last.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "last.safetensors").write_bytes(content)
    assert KeptTuning(tmp_path).last() is None
    assert "is damaged: its content is not what was written: tuning begins anew" in capsys.readouterr().out


def test_batches_given_in_other_sizes_are_the_same_samples() -> None:
    """Gradients add up over as many samples at once as were given at once; the scale of features is each part's."""
    dense, small, (whole,) = pruned("attention")
    found = [tuned_by(small, dense, batches, settings()).distances for batches in ([whole], whole.split(5))]
    assert found[0] == pytest.approx(found[1], rel=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_stays_and_the_rounded_network_is_judged(dtype: torch.dtype) -> None:
    """Networks in half precision learn in single precision, where small steps are not lost, and come back in theirs."""
    dense, small, (batch,) = pruned("attention")
    dense, small, batch = dense.to(dtype), small.to(dtype), batch.mapped(lambda t: t.to(dtype))
    tuned = tuned_by(small, dense, [batch], settings(tune_epochs=8, tune_rate=0.2))
    assert {parameter.dtype for parameter in tuned.model.parameters()} == {dtype}
    judged = judged_by(dense, [batch])
    start, end = (apart("attention", dense, model, judged) for model in (small, tuned.model))
    assert end <= start * (1 + 1e-3)


class Recurrent(nn.Module):
    """[N, 6, 5] -> [N, 4], and a map [N, 2, 3] beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.up, self.down = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.down(self.up(self.cells(x)[0][:, -1]).relu())
        return {"scores": y[:, :4], "map": y[:, 4:].reshape(-1, 2, 3)}


def test_several_outputs_of_a_recurrent_network() -> None:
    """Other outputs than logits are held to the dense ones by their squared error."""
    torch.manual_seed(0)
    dense, inputs = Recurrent().eval(), torch.randn(64, 6, 5)
    result = snp.prune(dense, [inputs], reconstruct="tuned", tune_epochs=2, **CUT)
    assert "Tuned without labels" in str(result)
    tuned = tuned_by(disturbed(result.model), dense, [Batch.of(inputs)], settings())
    assert tuned.distances[-1] < 0.7 * tuned.distances[0]


def test_objective_of_the_user_judges() -> None:
    """A function without gradients chooses the epoch; steps then go by what the outputs look like."""
    dense, small, batches = pruned("attention")
    small = disturbed(small)

    def first_class_only(wanted: Tensor, found: Tensor) -> float:
        return float((wanted - found)[:, 0].square().mean())

    tuned = tuned_by(small, dense, batches, settings(objective=first_class_only))
    assert tuned.epoch > 0
    judged = judged_by(dense, batches)
    with torch.no_grad():
        outputs = [judged.call(model) for model in (dense, small, tuned.model)]
    assert tuned.distances[0] == pytest.approx(first_class_only(*outputs[:2]))
    assert tuned.distances[tuned.epoch] == pytest.approx(first_class_only(outputs[0], outputs[2]))
    assert tuned.distances[tuned.epoch] <= tuned.distances[0]


# ---------------------------------------------------------------------------------------------------------- the loss


def test_objective_of_the_user_may_write_over_outputs_and_gives_one_number() -> None:
    """Work in place gives what work on copies does; several numbers are refused with the name of the option."""
    rows, options = [tokens(48)], CUT | {"reconstruct": "tuned", "tune_epochs": 3, "progress": False}

    def in_place(dense: Tensor, small: Tensor) -> Tensor:
        return small.sub_(dense).square_().mean()

    plain, other = (
        snp.prune(attention(), rows, objective=function, **options)
        for function in (lambda dense, small: (small - dense).square().mean(), in_place)
    )
    assert_same(state(plain.model), state(other.model))
    for way in (True, "tuned"):
        with pytest.raises(TypeError, match=r"prune\.objective \(each\) gave .* numbers, shape"):
            snp.prune(attention(), rows, objective=each, **options | {"reconstruct": way})


def each(dense: Tensor, small: Tensor) -> Tensor:
    """A number for every sample."""
    return (dense - small).square().flatten(1).mean(1)


def test_gradient_of_the_output_error_is_that_of_softened_predictions() -> None:
    """At the dense outputs it is zero, beside them (softmax(z / T) - softmax(v / T)) / T N."""
    dense, _, (batch,) = pruned("attention")
    objective = objective_of(dense, [batch])
    with torch.no_grad():
        wanted = batch.call(dense)
    found = (wanted + torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    output_error(objective, wanted, found, batch).backward()
    by_hand = 0.5 * ((found / 2).softmax(1) - (wanted / 2).softmax(1)) / len(wanted)
    torch.testing.assert_close(found.grad, by_hand.detach())
    assert float(output_error(objective, wanted, wanted, batch)) == pytest.approx(0, abs=1e-6)


def test_padding_is_not_learned() -> None:
    """Outputs and features of tokens that an attention mask leaves out count nothing."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = Batch((), {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "attention_mask": mask})
    model = language().eval()
    objective = objective_of(model, [Batch.of(words(8))])
    wanted, found = torch.randn(2, 3, 23), torch.randn(2, 3, 23)
    other = torch.where(mask[..., None] == 1, found, torch.randn(2, 3, 23))
    assert torch.equal(*(output_error(objective, wanted, given, batch) for given in (found, other)))
    assert torch.equal(*(feature_error(wanted, given, batch) for given in (found, other)))
    by_hand = (found - wanted)[mask == 1].square().sum() / wanted[mask == 1].square().sum()
    torch.testing.assert_close(feature_error(wanted, found, batch), by_hand)


def test_features_are_the_last_with_positions_that_no_cut_narrows() -> None:
    """Of the residual network the stream before the pooling; of one without common widths none."""
    dense, small, (batch,) = pruned("attention")
    place = common_features(dense, small, batch)
    assert place == Place("blocks.1")
    with FeatureTap(small, place) as tap, torch.no_grad():
        output, features = tap.run(batch)
    assert features is not None
    torch.testing.assert_close(small.head(features.mean(1)), output)
    plain = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    inputs = torch.randn(32, 6)
    narrow = snp.prune(plain, [inputs], **CUT).model
    assert common_features(plain, narrow, Batch.of(inputs)) is None
    assert isinstance(tuned_by(narrow, plain, [Batch.of(inputs)], settings()), Tuned)


def test_a_module_that_is_called_twice_is_told_apart() -> None:
    """The last call is the one before the head."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.body(x)))

    model, inputs = Twice().eval(), torch.randn(3, 4)
    place = common_features(model, model, Batch.of(inputs))
    assert place == Place("body", 1)
    with FeatureTap(model, place) as tap, torch.no_grad():
        assert torch.equal(tap.run(Batch.of(inputs))[1], model.body(model.body(inputs)))


def test_rate_rises_then_falls_to_zero() -> None:
    """A twentieth of the steps up, a straight line down, never zero at a step that is made."""
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert torch.tensor(factors[5:], dtype=torch.float64).diff().tolist() == pytest.approx([-1 / 95] * 94)
    assert 0 < factors[-1] < 0.02
    assert rate_factor(0, 1) == 1.0


# --------------------------------------------------------------------------------------------------------- the views


class Halves(nn.Module):
    """Logits by the mean of the left half and of the right half; blind to which is which where it adds them."""

    def __init__(self, is_blind: bool) -> None:
        super().__init__()
        self.is_blind, self.head = is_blind, nn.Linear(2, 2, bias=False)
        nn.init.constant_(self.head.weight, 1.0)
        with torch.no_grad():
            self.head.weight[1] = -1.0 if is_blind else torch.tensor([1.0, -1.0])
            self.head.weight *= 10

    def forward(self, x: Tensor) -> Tensor:
        halves = torch.stack([part.mean((1, 2, 3)) for part in x.chunk(2, dim=3)], dim=1)
        return self.head(halves.mean(1, keepdim=True).expand(-1, 2) if self.is_blind else halves)


def test_images_are_mirrored_where_the_dense_network_does_not_mind() -> None:
    """One that tells left from right is not shown mirrored images; one that does not is."""
    batch = Batch.of(
        images(64) + 2 * torch.randn(64, 1, 1, 2, generator=torch.Generator().manual_seed(2)).repeat_interleave(4, 3)
    )
    for is_blind in (True, False):
        model = Halves(is_blind).eval()
        found = views_of(model, [batch], objective_of(model, [batch]), "auto", 0)
        assert found.mirror == is_blind
        assert found.mix


def test_views_are_moved_and_mirrored_images() -> None:
    """Every view is the image or its mirror image, at most an eighth of a side away; all of them are seen."""
    batch = Batch.of(torch.arange(16 * 24, dtype=torch.float32).reshape(1, 1, 16, 24).repeat(400, 1, 1, 1))
    (seen,) = Views(mirror=True, shift=True).drawn(batch, torch.Generator().manual_seed(0)).args
    found = set()
    for view in seen[:, 0]:
        step = float(view[8, 12] - view[8, 11])  # to the right in the image as it was
        assert abs(step) == 1
        row, column = divmod(int(view[8, 12]), 24)
        found.add((step < 0, row - 8, column - (11 if step < 0 else 12)))
    assert found == {(flip, down, right) for flip in (False, True) for down in range(-2, 3) for right in range(-3, 4)}
    assert torch.equal(Views().drawn(batch, torch.Generator()).args[0], batch.args[0])


def test_half_of_the_batches_are_mixed_sample_by_sample() -> None:
    """Each image between itself and one other, the weights anywhere between none and all; the rest as they are."""
    batch, generator = Batch.of(torch.eye(8)[:, :, None, None].expand(8, 8, 2, 2)), torch.Generator().manual_seed(0)
    drawn = [Views(mix=True).drawn(batch, generator).args[0][..., 0, 0] for _ in range(200)]
    mixed = [each for each in drawn if not torch.equal(each, torch.eye(8))]
    assert 80 < len(mixed) < 120
    for each in mixed:
        assert torch.allclose(each.sum(1), torch.ones(8))
        assert (each >= 0).all()
        assert ((each > 0).sum(1) <= 2).all()
    own = torch.cat([each.diagonal() for each in mixed])
    assert 0.1 < own.quantile(0.1) < 0.3
    assert 0.4 < own.median() < 0.75


@pytest.mark.parametrize("views", ["both", "mirror", "shift", "mix"])
def test_views_of_what_is_no_image_are_refused(views: str) -> None:
    """By the name of the option; `auto` shows them as they are."""
    dense, small, batches = pruned("attention")
    with pytest.raises(ValueError, match=r"prune\.tune_views"):
        tuned_by(small, dense, batches, settings(tune_views=views))
    assert tuned_by(small, dense, batches, settings(tune_epochs=1)).views == Views()


# ----------------------------------------------------------------------------------------------------- what is refused


def test_too_few_samples_are_refused_by_name() -> None:
    """Nothing could be held back."""
    with pytest.raises(ValueError, match=r"prune\.reconstruct=tuned .* 16 or more, found 15"):
        snp.prune(attention(), [tokens(15)], reconstruct="tuned", **CUT)


class Mixed(nn.Module):
    """A layer in half precision, as its code says, before one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 12).bfloat16(), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x.bfloat16()).float().relu()).relu())


def test_types_that_the_code_asks_for_are_refused_by_name() -> None:
    """The closed form keeps them; steps in single precision cannot be taken."""
    rows = [torch.randn(32, 8)]
    assert snp.prune(Mixed(), rows, **CUT).model(rows[0]).dtype == torch.float32
    with pytest.raises(ValueError, match=r"prune\.reconstruct=tuned trains in single precision.* bfloat16, float32 "):
        snp.prune(Mixed(), rows, reconstruct="tuned", **CUT)


def test_outputs_without_gradients_are_refused_by_name() -> None:
    """An evaluation that switches gradients off cannot be learned."""

    class Frozen(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    dense, small, batches = pruned("attention")
    with pytest.raises(ValueError, match=r"prune\.reconstruct=tuned: no gradient"):
        tuned_by(Frozen(small).eval(), Frozen(dense).eval(), batches, settings())


def test_streaming_is_refused_by_name() -> None:
    """It is there to avoid a second network."""
    with pytest.raises(ValueError, match=r"prune\.reconstruct=tuned"):
        prune_streamed(
            attention(), [tokens(32)], reconstruct="tuned", calibration="joint", ordering="zca", cut="variance"
        )


def test_samples_of_several_shapes_never_share_a_batch() -> None:
    """Each is tuned on once per epoch, and the held back are none of them."""
    batches = [Batch.of(torch.full((5, 3, size), float(size))) for size in (4, 6, 4)]
    samples = TuningSamples(batches * 2, held_back(nn.Identity(), batches * 2, 0))
    seen = list(samples.shuffled(4, torch.Generator().manual_seed(0)))
    assert len(seen) == samples.num_batches(4)
    assert sum(batch.size for batch in seen) == samples.num_tuned == 30 - samples.num_held
    assert all(torch.equal(batch.args[0], torch.full_like(batch.args[0], batch.args[0].shape[2])) for batch in seen)
    assert sum(batch.size for batch in samples.held_back) == samples.num_held == 3


def test_held_back_and_tuned_are_all_samples_once() -> None:
    """Told by their values."""
    batches = [Batch.of(torch.arange(40.0)[:, None])]
    samples = TuningSamples(batches, held_back(nn.Identity(), batches, 0))
    tuned = torch.cat([batch.args[0] for batch in samples.shuffled(7, torch.Generator())])
    whole = torch.cat([tuned, *(batch.args[0] for batch in samples.held_back)])
    assert torch.equal(whole[:, 0].sort().values, torch.arange(40.0))
    assert F.mse_loss(tuned[:, 0], tuned[:, 0].sort().values) > 0


def test_weights_are_not_fitted_on_samples_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise instead of them changes nothing that tuning begins with; of mirrored pairs both are left out.

    Where no epoch is kept, what comes back was fitted on all of them, as without tuning.
    """
    starts: list[nn.Module] = []

    def noting(small: nn.Module, *rest: Any) -> Tuned:
        starts.append(copy.deepcopy(small))
        return tune(small, *rest)

    monkeypatch.setattr("snp.library.tune", noting)
    dense, batches = cnn().eval(), [Batch.of(part) for part in images(64).split(24)]
    is_held = held_back(dense, batches, 0)
    spoiled = [
        torch.where(held[:, None, None, None], torch.randn_like(batch.args[0]), batch.args[0])
        for batch, held in zip(batches, is_held, strict=True)
    ]
    options = CUT | {
        "reconstruct": "tuned",
        "tune_rate": 1e-30,
        "tune_epochs": 1,
        "mirrored": False,
        "ordering": "random",
        "ridge": 1e-3,
    }
    clean, other = (snp.prune(dense, given, **options) for given in ([batch.args[0] for batch in batches], spoiled))
    assert_same(state(starts[0]), state(starts[1]))
    with pytest.raises(AssertionError):
        assert_same(state(clean.model), state(starts[0]))
    plain = snp.prune(dense, spoiled, **CUT | {"ordering": "random", "ridge": 1e-3, "mirrored": False})
    assert_same(state(plain.model), state(other.model))
    assert clean.tuned is not None
    assert clean.tuned.epoch == 0
    assert_same(state(clean.model), state(clean.tuned.model))
    pairs = [with_mirrored(Batch.of(images(24)))]
    mask = held_back(cnn().eval(), [without_mirrored(pairs[0])], 0)
    (left,) = without(pairs, mask)
    assert torch.equal(left.args[0], with_mirrored(Batch.of(images(24)[~mask[0]])).args[0])


class Said:
    """A judge that says what it was told to."""

    def __init__(self, *distances: float) -> None:
        self._distances = iter(distances)

    def distance(self, _: nn.Module) -> float:
        return next(self._distances)

    of_start = distance

    def is_nearer(self, *_: object) -> bool:
        return bool(next(self._distances))


def test_what_leads_away_by_less_than_twice_the_start_is_left_alone() -> None:
    nearest = Nearest(nn.Linear(2, 2), Said(1.0, 1.9, 2.1, 0.5))  # type: ignore[arg-type]
    assert [nearest.heeds({}) for _ in range(3)] == [True, False, True]
    assert nearest.epoch == 3
    below = Nearest(nn.Linear(2, 2), Said(-1.0, -1.1, -0.1, 0.1))  # type: ignore[arg-type]
    assert [below.heeds({}) for _ in range(3)] == [True, True, False]
    assert below.epoch == 1


@pytest.mark.parametrize("is_nearer", [True, False])
def test_the_nearest_by_chance_is_not_kept(is_nearer: bool) -> None:
    """The start comes back to the bit, and is said to be what is kept."""
    model = nn.Linear(2, 2)
    start, moved = state(model), {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    nearest = Nearest(model, Said(1.0, 0.9, is_nearer))  # type: ignore[arg-type]
    nearest.heeds(moved)
    assert_same(state(nearest.network()), moved if is_nearer else start)
    assert nearest.epoch == int(is_nearer)


def test_chance_is_what_parts_of_the_samples_differ_by() -> None:
    """Noise of no mean is taken for a gain once in twenty times, however many parts; a gain in all parts is one."""
    generator = torch.Generator().manual_seed(0)
    for parts in (2, 3, 8, 16, 40):
        noise = torch.randn(4000, parts, generator=generator)
        sizes = torch.full((parts,), 3)
        taken = sum(is_lower(torch.zeros(parts), each, sizes) for each in noise)
        assert 0.03 < taken / len(noise) < 0.07, parts
        assert is_lower(torch.ones(parts), torch.linspace(0.5, 0.6, parts), sizes)
        assert not is_lower(torch.ones(parts), torch.full((parts,), torch.nan), sizes)
    assert not is_lower(torch.ones(1), torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize(("seed", "sizes"), [(0, (8, 16, 10)), (0, (20, 48, 6)), (3, (16, 64, 1))])
def test_few_samples_do_no_harm(seed: int, sizes: tuple[int, int, int]) -> None:
    """On fresh samples the network is no farther than the closed form; the nearest on two samples was, up to 38 %."""
    num_inputs, hidden, num_outputs = sizes
    torch.manual_seed(seed)
    act = nn.GELU() if hidden == 48 else nn.ReLU()
    layers = (nn.Linear(num_inputs, hidden), act, nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))
    dense, generator = nn.Sequential(*layers).eval(), torch.Generator().manual_seed(1000 + seed)
    given, fresh = (torch.randn(count, num_inputs, generator=generator) for count in (16, 2048))
    errors = []
    for way in (True, "tuned"):
        small = snp.prune(dense, [given], target_macs=0.5, reconstruct=way, progress=False).model
        with torch.no_grad():
            errors.append(float((small(fresh) - dense(fresh)).square().mean()))
    assert errors[1] <= 1.03 * errors[0]


def test_features_in_another_basis_are_none_to_match() -> None:
    """A stream that was turned has the shape of the dense one's; a network that is there already stays as near."""
    torch.manual_seed(3)
    dense = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 4)).eval()
    turned = copy.deepcopy(dense)
    rotation = torch.linalg.qr(torch.randn(16, 16))[0]
    with torch.no_grad():
        turned[2].weight.copy_(rotation @ dense[2].weight)
        turned[2].bias.copy_(rotation @ dense[2].bias)
        turned[3].weight.copy_(dense[3].weight @ rotation.T)
    batch = Batch.of(torch.randn(64, 6))
    assert common_features(dense, copy.deepcopy(dense), batch) == Place("2")
    assert common_features(dense, turned, batch) == Place("1")
    turned[0].weight.data.copy_(rotation @ dense[0].weight)
    assert common_features(dense, turned, batch) is None


def test_twice_as_far_is_undone() -> None:
    """A rate far too high is lowered."""
    dense, small, batches = pruned("cnn", 96)
    tuned = tuned_by(small, dense, batches, settings(tune_rate=20.0, tune_epochs=6))
    assert tuned.steps.rate < 20.0
    assert tuned.distances[tuned.epoch] <= tuned.distances[0]
