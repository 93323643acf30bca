"""Is the measured sensitivity the Fisher matrix of the layers' outputs?"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.measure.readers import Reader
from snp.measure.sensitivity import measure_sensitivity
from tests.networks import cnn, images
from tests.sums import DOUBLED

READERS = {"layer.weight": Reader("layer.weight", "layer", -1, 6)}
CONV_READERS = {"layer.weight": Reader("layer.weight", "layer", 1, 3)}


class Perceptron(nn.Module):
    """Six inputs, a layer of four units under test, three classes."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.layer, self.head, self.act = nn.Linear(6, 4), nn.Linear(4, 3), act
        with torch.no_grad():
            self.head.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.layer(x)))


class Picture(nn.Module):
    """A convolution under test, written over in place, in front of a pooled head: [N, 3, 5, 5] -> [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 3)
        with torch.no_grad():
            self.head.weight.mul_(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.layer(x)).mean((2, 3)))


def measured(model: nn.Module, batches: list[Tensor], readers: dict[str, Reader], seed: int = 0) -> dict[str, Tensor]:
    return measure_sensitivity(model.eval(), Batch.all(batches), readers, torch.Generator().manual_seed(seed))


def exact(behind: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Mean over samples of J^T (diag(p) - p p^T) J, summed over positions; every label counts by its probability."""
    total = torch.zeros(outputs.shape[1], outputs.shape[1], dtype=torch.float64)
    for output in outputs:
        with torch.no_grad():
            p = behind(output[None])[0].softmax(0)
        jacobian = torch.autograd.functional.jacobian(lambda value: behind(value[None])[0], output)
        jacobian = jacobian.reshape(len(p), outputs.shape[1], -1)  # [classes, O, positions]
        total += torch.einsum("iap,ij,jbp->ab", jacobian, p.diag() - torch.outer(p, p), jacobian)
    return total / len(outputs)


def test_linear_layer_has_the_fisher_matrix_of_its_outputs() -> None:
    """With many labels drawn per input the mean comes to the expectation over all labels."""
    model, inputs = Perceptron(), torch.randn(5, 6)
    wanted = exact(lambda value: model.head(F.relu(value)), model.layer(inputs).detach())
    found = measured(model, [inputs.repeat(2000, 1)] * 2, READERS)["layer.weight"]
    assert found.dtype == torch.float64
    assert float((found - wanted).norm() / wanted.norm()) < 0.03


def test_convolution_sums_over_positions() -> None:
    """Every position of a map adds its own outer product, and an in-place nonlinearity behind does not disturb it."""
    model, inputs = Picture(), torch.randn(4, 3, 5, 5)
    wanted = exact(lambda value: model.head(F.relu(value).mean((2, 3))), model.layer(inputs).detach())
    found = measured(model, [inputs.repeat(2500, 1, 1, 1)], CONV_READERS)["layer.weight"]
    assert float((found - wanted).norm() / wanted.norm()) < 0.03


def test_sampled_labels_come_from_the_prediction() -> None:
    """Where the network is sure of one class no error matters, though another label would be a surprise."""
    model = Perceptron()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([60.0, 0.0, 0.0]))
    assert float(measured(model, [torch.randn(50, 6)], READERS)["layer.weight"].abs().max()) < 1e-12


@pytest.mark.parametrize("build", [Perceptron, Picture, lambda: Perceptron(F.relu_)])
def test_frozen_networks_pass_gradients_on(build: Callable[[], nn.Module]) -> None:
    """Without a trainable parameter, or with some of them, the matrix is the same to the last bit."""
    model = build()
    readers = READERS if isinstance(model, Perceptron) else CONV_READERS
    inputs = torch.randn(8, 6) if isinstance(model, Perceptron) else torch.randn(8, 3, 5, 5)
    wanted = measured(model, [inputs], readers)["layer.weight"]
    model.layer.requires_grad_(False)
    assert torch.equal(measured(model, [inputs], readers)["layer.weight"], wanted)
    model.requires_grad_(False)
    assert torch.equal(measured(model, [inputs], readers)["layer.weight"], wanted)
    with torch.no_grad():
        assert torch.equal(measured(model, [inputs], readers)["layer.weight"], wanted)


def test_writing_over_the_output_does_not_change_the_gradient() -> None:
    """A nonlinearity in place gives what one with memory of its own gives."""
    model, inputs = Perceptron(), torch.randn(8, 6)
    wanted = measured(model, [inputs], READERS)["layer.weight"]
    model.act = F.relu_
    assert torch.equal(measured(model, [inputs], READERS)["layer.weight"], wanted)


def test_gradients_that_are_not_finite_name_their_layer() -> None:
    """The root of zero has no gradient."""
    model = Perceptron(act=lambda x: (x * 0).sqrt())
    with pytest.raises(ValueError, match="gradients at the outputs of layer layer hold NaN"):
        measured(model, [torch.randn(5, 6)], READERS)


def test_nothing_is_left_behind() -> None:
    """Afterwards, an error inside included, there are no gradients and no hooks, and no weight has moved."""
    model = Perceptron().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured(model, [torch.randn(8, 6)], READERS)
    with pytest.raises(RuntimeError):
        measured(model, [torch.randn(8, 6), torch.randn(8, 7)], READERS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.layer._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scale_does_not_depend_on_the_number_of_samples() -> None:
    """The matrix is per sample: twice the data, in other batches, gives the same up to the draw of labels."""
    model, inputs = Perceptron(), torch.randn(3000, 6)
    once = measured(model, [inputs], READERS)["layer.weight"]
    twice = measured(model, [*inputs.split(700), *inputs.split(1000)], READERS, seed=1)["layer.weight"]
    assert float((once - twice).norm() / once.norm()) < 0.1


def test_processes_add_up() -> None:
    """Sums and counts are reduced alike, so equal shares on two processes give what one of them gives."""
    model, inputs = Perceptron().eval(), torch.randn(8, 6)
    generator = torch.Generator().manual_seed(0)
    doubled = measure_sensitivity(model, [Batch.of(inputs)], READERS, generator, DOUBLED)
    torch.testing.assert_close(doubled["layer.weight"], measured(model, [inputs], READERS)["layer.weight"])


def test_matrices_are_positive_and_of_every_reader() -> None:
    """In a whole network every layer that is asked for gets its symmetric positive semidefinite matrix."""
    model = cnn()
    readers = {
        f"{name}.weight": Reader(f"{name}.weight", name, dim, 1)
        for name, dim in (("stem", 1), ("depth", 1), ("squeeze", 1), ("project", 1), ("wide", 1), ("head", -1))
    }
    found = measured(model, [images(6)], readers)
    assert set(found) == set(readers)
    for name, matrix in found.items():
        size = model.get_parameter(name).shape[0]
        assert matrix.shape == (size, size)
        torch.testing.assert_close(matrix, matrix.T)
        assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-6 * float(matrix.trace())
        assert float(matrix.trace()) > 0


class Dictionary(nn.Module):
    """Keyword arguments in, logits among several outputs, tokens in front of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Perceptron()
        self.layer = self.inner.layer

    def forward(self, rows: Tensor, scale: Tensor) -> dict[str, Tensor]:
        logits = self.inner(rows) * scale[:, None, None]
        return {"classes": logits.argmax(2), "logits": logits}


def test_mappings_and_tokens() -> None:
    """Every token's prediction counts for its sample."""
    model, rows = Dictionary().eval(), torch.randn(5, 2, 6)
    batch = {"rows": rows.repeat(2000, 1, 1), "scale": torch.ones(10000)}
    found = measured(model, [batch], READERS)["layer.weight"]
    one_by_one = model.layer(rows.reshape(-1, 6)).detach()
    wanted = 2 * exact(lambda value: model.inner.head(F.relu(value)), one_by_one)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


class Overwriting(Perceptron):
    """Adds to what a norm remembers, in place."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = x * 1.0
        normed = F.layer_norm(hidden, hidden.shape[-1:])
        hidden += normed
        return super().forward(hidden)


def test_values_that_are_overwritten_are_named() -> None:
    model = Overwriting().requires_grad_(True)
    with pytest.raises(ValueError, match=r"overwrites values that gradients .* prune\.cut='variance'"):
        measured(model, [torch.randn(5, 6, requires_grad=True)], READERS)
