"""Does attention in plain layers compute what `nn.MultiheadAttention` does, and can every structure of it be cut?"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.plain_attention import PlainAttention, plain_attention

TOKENS = torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0))


def masks(kind: str) -> dict[str, Tensor]:
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    padding = torch.arange(7)[None] >= torch.tensor([[3], [7], [5], [6]])
    per_head = torch.randn(4 * 3, 7, 7, generator=torch.Generator().manual_seed(1))
    return {
        "none": {},
        "causal": {"attn_mask": causal},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "added, per head": {"attn_mask": per_head},
    }[kind]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("kind", ["none", "causal", "padding", "both", "added, per head"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 5, "vdim": 9}, {"batch_first": True}])
def test_computes_the_same(options: dict[str, Any], kind: str, need_weights: bool) -> None:
    """Outputs and weights, with every mask, layout and size."""
    stock = nn.MultiheadAttention(12, 3, **options).eval()
    parts = [TOKENS, TOKENS[..., : stock.kdim], TOKENS[..., : stock.vdim]]
    if not stock.batch_first:
        parts = [part.transpose(0, 1) for part in parts]
    plain = plain_attention(stock)
    assert plain is not None
    with torch.no_grad():
        wanted = stock(*parts, need_weights=need_weights, **masks(kind))
        found = plain(*parts, need_weights=need_weights, **masks(kind))
    torch.testing.assert_close(found, wanted)


def test_what_adds_to_keys_stays() -> None:
    """There is no plain layer for a bias that is one more key."""
    assert plain_attention(nn.MultiheadAttention(12, 3, add_bias_kv=True)) is None
    assert plain_attention(nn.Linear(3, 3)) is None


class Encoder(nn.Module):
    """PyTorch's encoder, and cross-attention to it: [N, 7, 12] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.query, self.cross = nn.Parameter(torch.randn(2, 12)), nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        pooled, _ = self.cross(self.query.expand(len(x), -1, -1), x, x)
        return self.head(pooled.mean(1))


@pytest.mark.parametrize("structures", [("vo",), ("qk",), ("ffn", "vo", "qk"), ("heads",)])
def test_every_structure_is_cut(structures: tuple[str, ...], tmp_path: Path) -> None:
    """Fewer dimensions or heads, costs as counted, and back from disk."""
    torch.manual_seed(0)
    model = Encoder().eval()
    inputs = torch.randn(64, 7, 12, generator=torch.Generator().manual_seed(1))
    options = {"ordering": "variance", "calibration": "joint", "cut": "uniform", "target_units": 0.5}
    result = snp.prune(model, [inputs], structures=structures, **options)
    kinds = {decision.group.kind for decision in result.plan.groups if len(decision.cut)}
    assert set(structures) <= kinds
    assert isinstance(result.model.encoder.layers[0].self_attn, PlainAttention)
    assert result.plan.macs["pruned"] == macs_of_batch(result.model, Batch.of(inputs))
    snp.save(result, tmp_path)
    torch.manual_seed(0)
    with torch.no_grad():
        torch.testing.assert_close(snp.load(tmp_path, Encoder())(inputs), result.model(inputs))


class OfPixels(nn.Module):
    """Attention among the pixels of a map by convolutions of one pixel, as in SAGAN: [N, 3, 6, 6] -> [N, 4, 6, 6].

    Args:
        size: of the kernel that reads what was attended to.
        depthwise: a depthwise layer stands between the projection of queries and the product.
    """

    def __init__(self, size: int = 1, *, depthwise: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.query, self.key, self.value = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 12, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8) if depthwise else nn.Identity()
        self.out = nn.Conv2d(12, 16, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        number, _, height, width = x.shape
        query, key, value = self.depth(self.query(x)), self.key(x), self.value(x)
        query, key, value = (part.reshape(number, 2, -1, height * width) for part in (query, key, value))
        weights = (query.mT @ key * 0.5).softmax(-1)
        attended = (value @ weights.mT).reshape(number, -1, height, width)
        return self.last(torch.relu(x + self.out(attended)))


@pytest.mark.parametrize("reconstruct", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_attention_among_pixels(size: int, reconstruct: bool) -> None:
    """Values stand as columns; dimensions of each head go, but not those that a kernel of several positions reads."""
    torch.manual_seed(0)
    model = OfPixels(size).eval()
    inputs = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    result = snp.prune(
        model, [inputs], structures=("vo", "qk"), target_units=0.5, cut="uniform", ordering="variance",
        calibration="joint", reconstruct=reconstruct,
    )  # fmt: skip
    found = {d.group.name: (d.group.num_partitions, len(d.kept)) for d in result.plan.groups}
    assert found == {"query:qk": (2, 4)} | ({"value:vo": (2, 6)} if size == 1 else {})
    assert result.plan.macs["pruned"] == macs_of_batch(result.model, Batch.of(inputs))


def test_depthwise_layers_before_the_product_freeze_it() -> None:
    """A depthwise layer has no rows that could be turned: its heads stay whole, and nothing fails."""
    inputs = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    result = snp.prune(OfPixels(depthwise=True).eval(), [inputs], structures=("ffn", "vo", "qk"), target_units=0.5,
                       cut="uniform", ordering="variance", calibration="joint", streams=True)  # fmt: skip
    assert "head dimension" in result.plan.frozen["query.weight"]


@pytest.mark.parametrize("size", range(1, 40))
def test_scale_is_that_of_the_fused_call(size: int) -> None:
    """To the last bit, in double precision, for heads of any size: with nothing cut nothing changes."""
    plain = plain_attention(nn.MultiheadAttention(size, 1))
    assert plain is not None
    parts = [
        torch.randn(1, 1, 3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(3)
    ]
    attend = nn.functional.scaled_dot_product_attention
    assert torch.equal(attend(*parts, scale=plain.scale), attend(*parts))
