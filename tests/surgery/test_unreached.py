"""Are layers named that calibration does not reach, and no others?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import snp
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.plan.table import unreached_sentence
from snp.surgery.unreached import unreached_layers
from tests.graphs import Net

X, Y = torch.randn(64, 12), torch.randn(64, 6)
SENTENCE = "Not reached: calibration's inputs do not reach {}, so calls that do may not fit the small network; give "
SENTENCE += "batches that reach them."


class Optional(nn.Module):
    """A second input that may be left out, and one that meets nothing of the size of a cut layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.y, self.narrow, self.c = nn.Linear(12, 24), nn.Linear(6, 24), nn.Linear(6, 5), nn.Linear(24, 5)

    def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        hidden = self.a(x) if y is None else self.a(x) + self.y(y)
        return self.c(hidden.relu()) if z is None else self.c(hidden.relu()) + self.narrow(z)


def test_a_path_that_calibration_does_not_take_is_named() -> None:
    """By the result, the plan and the inspection; a call that takes it fails as the sentence says."""
    torch.manual_seed(0)
    model = Optional().eval()
    result = snp.prune(model, [X], target_units=0.5, preset="quick", progress=False)
    assert result.warning == SENTENCE.format("y") + "\n"
    assert str(result).startswith(result.warning)
    assert result.plan.settings["unreached"] == ["y"]
    with pytest.raises(RuntimeError, match="must match the size"):
        result.model(X, Y)
    found = snp.inspect(model, X)
    assert found.unreached == ("y",)
    assert SENTENCE.format("y") in str(found)


def test_batches_that_reach_a_path_cut_it() -> None:
    """As the sentence advises. Nothing is said either where nothing that it could meet loses units."""
    torch.manual_seed(0)
    model = Optional().eval()
    both = snp.prune(model, [{"x": X, "y": Y}], target_units=0.5, preset="quick", progress=False)
    assert both.warning == ""
    assert both.model(X, Y).shape == (64, 5)
    whole = snp.prune(model, [X], target_units=1.0, preset="quick", progress=False)
    assert whole.warning == ""


def test_many_layers_make_a_short_sentence() -> None:
    """The first few are named, and the others counted."""
    assert unreached_sentence([]) == ""
    assert unreached_sentence(["a", "b", "c", "d", "e"]) == SENTENCE.format("a, b, c and 2 more layers")


class ByFunction(nn.Module):
    """Weights that the code of another module reads, behind what does nothing in evaluation mode, and tied ones."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(9, 12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.head, self.still = nn.Linear(12, 9, bias=False), nn.Sequential(nn.Identity(), nn.Dropout())
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.still(F.linear(self.table(tokens), self.a.weight, self.a.bias)).relu()
        return F.linear(F.linear(hidden, self.b.weight, self.b.bias), self.head.weight)


def helped(x: Net, inputs: Tensor) -> Any:
    """With a head that is there in training only."""
    hidden = x.a(inputs).relu()
    return (x.b(hidden), x.aux(hidden)) if x.training else x.b(hidden)


def bert(**options: Any) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers.BertModel(transformers.BertConfig(vocab_size=32, **sizes, **options))


IDS = torch.arange(12).reshape(2, 6) + 5
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "read by functions": (ByFunction, IDS % 9),
    "in training only": (lambda: Net(helped, a=nn.Linear(12, 24), b=nn.Linear(24, 5), aux=nn.Linear(24, 3)), X[:2]),
    "bert": (bert, IDS),
    "wav2vec": (
        lambda: transformers.Wav2Vec2Model(
            transformers.Wav2Vec2Config(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, conv_dim=(8, 8),
                conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
            )
        ),
        torch.randn(2, 400),
    ),
}  # fmt: skip


def unreached(model: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    batch = Batch.of(inputs)
    return unreached_layers(model.eval(), analyse(model, batch), batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_that_are_reached_are_not_named(name: str) -> None:
    """Nor what is there in training only, where trial cuts look at it."""
    build, inputs = NETWORKS[name]
    assert unreached(build(), inputs) == ()


def test_attention_to_an_encoder_is_named_where_there_is_none() -> None:
    """Of a decoder that is calibrated alone."""
    found = unreached(bert(is_decoder=True, add_cross_attention=True), IDS)
    inside = "encoder.layer.0.crossattention"
    parts = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
    assert found == tuple(f"{inside}.{part}" for part in parts)
