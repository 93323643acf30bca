"""Is a layer that flattens its tokens, as transformers' Conv1D does, fitted as the same layer of PyTorch's own is?"""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import snp
from snp.graph.batches import Batch
from snp.graph.exported import export
from snp.graph.flattened import product_of_tokens, with_tokens
from snp.measure.moments import MomentCollector
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.audit import randomise

WORDS = torch.randint(0, 96, (128, 12), generator=torch.Generator().manual_seed(1))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=96, n_positions=32, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    return randomise(GPT2LMHeadModel(config))


def with_linear_layers(model: nn.Module) -> nn.Module:
    """The same function with nn.Linear in the place of every Conv1D."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                linear.weight.data, linear.bias.data = child.weight.data.T.contiguous(), child.bias.data
                setattr(parent, name, linear)
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"calibration": "joint"}, {"refit_all": False}, {"largest_token": 1.0}])
def test_gpt2_is_fitted_as_with_linear_layers(options: dict[str, object]) -> None:
    """The same units, the same weights: repair, intercepts, tokens within bounds, layers that lose nothing."""
    first, second = gpt2(), with_linear_layers(gpt2())
    found = [
        snp.prune(model, [{"input_ids": WORDS}], target_macs=0.8, tilt=False, progress=False, **options)
        for model in (first, second)
    ]
    kept, others = ([group.kept.tolist() for group in result.plan.groups] for result in found)
    assert kept == others
    with torch.no_grad():
        logits, wanted = (result.model(WORDS[:16]).logits for result in found)
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4 * float(wanted.std()))


def test_moments_know_the_samples_of_flattened_tokens() -> None:
    """One token that outweighs all others of its sample is held within bounds, whoever multiplies."""
    settings = PruneSettings(target_macs=0.8, largest_token=1.0)
    found = []
    for model in (gpt2(), with_linear_layers(gpt2())):
        subject = subject_of(model, Batch((), {"input_ids": WORDS[:2]}), settings)
        with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
            collector.measure(Batch((), {"input_ids": WORDS}))
        found.append(collector.moments)
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name].second, found[1][name].second, rtol=1e-4, atol=1e-4)


def test_products_are_rejoined() -> None:
    """All of GPT-2's layers are found, inputs keep their names; a graph without such products is left as it is."""
    model, batch = gpt2(), Batch((), {"input_ids": WORDS[:4]})
    exported = export(model, batch)
    joined = with_tokens(exported.graph)
    assert sum(node.target is product_of_tokens for node in joined.nodes) == 8
    assert [node.name for node in joined.nodes if node.op == "placeholder"] == [
        node.name for node in exported.graph.nodes if node.op == "placeholder"
    ]
    plain = export(with_linear_layers(model), batch)
    assert with_tokens(plain.graph) is plain.graph


class Turned(nn.Module):
    """Two layers whose weights are turned before they are read: [N, T, 12] -> [N, T, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.middle, self.down = (nn.Parameter(torch.randn(*size)) for size in ((32, 12), (32, 32), (6, 32)))

    def forward(self, x: Tensor) -> Tensor:
        x = (x @ self.up.T).relu()
        return (x @ self.middle.T).relu() @ self.down.T


class Straight(Turned):
    """The same by torch.nn.functional.linear."""

    def forward(self, x: Tensor) -> Tensor:
        linear = nn.functional.linear
        return linear(linear(linear(x, self.up).relu(), self.middle).relu(), self.down)


def test_layers_behind_turned_weights_see_what_was_fitted() -> None:
    """A transpose that was made before its weight was fitted is made again."""
    inputs = torch.randn(96, 5, 12, generator=torch.Generator().manual_seed(0))
    outputs = []
    for make in (Turned, Straight):
        torch.manual_seed(0)
        result = snp.prune(make().eval(), [inputs], target_macs=0.5, rectify=False, round_to=1, progress=False)
        with torch.no_grad():
            outputs.append(result.model(inputs))
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
