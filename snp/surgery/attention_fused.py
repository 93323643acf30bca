"""Which module attends where queries and values have sizes of their own per head?

Stock modules divide the outputs of all three projections by one head size. This one takes over the layers of such a
module under their names, so that weights and plans fit, and divides by two sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph.heads import AttentionLayer, HeadSizes, Removed
from snp.graph.plain_attention import PlainAttention
from snp.surgery.attention_biased import BiasedAttention, is_biased
from snp.surgery.attention_on_maps import ReducedAttention, WindowedAttention, is_reduced, is_windowed
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.attention_sloped import SlopedAttention, is_sloped
from snp.surgery.attention_tables import TableAttention, TimmAttention, is_of_tables
from snp.surgery.projections import projections_of

__all__ = ["SplitAttention", "in_place_of", "pick_places", "resize"]

_FUSED = {"qkv", "attn_drop", "proj"}
_ALSO_FUSED = {"q_norm", "k_norm", "norm", "gate", "proj_drop"}
_MAKES: tuple[tuple[Callable[[nn.Module], bool], type[SeparateAttention]], ...] = (
    (is_biased, BiasedAttention),
    (is_sloped, SlopedAttention),
    (is_reduced, ReducedAttention),
    (is_windowed, WindowedAttention),
)
_NUM_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_NUM_SHARED = ("num_key_value_heads", "num_kv_heads")
_HEAD_SIZE = ("head_dim", "attention_head_size", "head_size", "d_head", "key_value_proj_dim")
_ALL_HEADS = ("attn_dim", "all_head_size", "split_size")


class SplitAttention(TimmAttention):
    """Self-attention with one projection for queries, keys and values, whose sizes per head may differ.

    Args:
        stock: a module of timm's make (``qkv``, ``q_norm``, ``k_norm``, ``attn_drop``, ``norm``, ``gate``, ``proj``,
            ``proj_drop``); its layers are taken over.
        sizes: of the heads.
        scale: that queries are multiplied with: that of the dense heads.
    """

    qkv: nn.Linear
    attn_drop: nn.Dropout
    proj: nn.Linear

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens [B, N, C] to tokens [B, N, C]."""
        sizes = [self.num_heads * size for size in (self.query_size, self.query_size, self.value_size)]
        query, key, value = (self._heads(part) for part in self.qkv(x).split(sizes, dim=-1))
        dropout = self.attn_drop.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            self._layer("q_norm", query),
            self._layer("k_norm", key),
            value,
            attn_mask,
            dropout,
            is_causal,
            scale=self.scale,
        )
        attended = self._layer("norm", attended.transpose(1, 2).flatten(2))  # [B, N, H * V]
        gate = getattr(self, "gate", None)
        if gate is not None:
            attended = attended * gate(x).sigmoid()
        return self._layer("proj_drop", self.proj(attended))

    def _heads(self, part: Tensor) -> Tensor:
        """[B, N, H * D] -> [B, H, N, D]."""
        return part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def resize(module: Any, layer: AttentionLayer, dense: HeadSizes, sizes: HeadSizes) -> tuple[nn.Module, bool]:
    """The module for heads of other sizes: itself with its numbers changed, or one of ours in its place.

    Returns:
        The module, and whether it scales queries by the size that they have now, so that what the dense size gave
        has to be folded into the weights.
    """
    for part in (module, *module.children()):  # which may make biases of positions for each head
        _renumber(part, _NUM_HEADS, dense.num_heads, sizes.num_heads)
        shape = getattr(part, "bias_shape", None)  # of timm's
        if isinstance(shape, tuple) and shape[-1] == dense.num_heads:
            part.bias_shape = (*shape[:-1], sizes.num_heads)
    _renumber(module, _NUM_SHARED, dense.num_key_value_heads, sizes.num_key_value_heads)
    if isinstance(module, SplitAttention | SeparateAttention | TableAttention | PlainAttention):
        module.query_size, module.value_size = sizes.query_size, sizes.value_size
        return module, False
    picks = layer.is_rotary and sizes.query_size != dense.query_size
    if sizes.query_size != sizes.value_size or picks or is_biased(module) or is_sloped(module) or is_of_tables(module):
        return _of_two_sizes(module, layer, dense, sizes), False
    _renumber(module, _HEAD_SIZE, dense.query_size, sizes.query_size)
    whole, now = dense.num_heads * dense.query_size, sizes.num_heads * sizes.query_size
    is_divided = _renumber(module, _ALL_HEADS, whole, now)
    is_divided = is_divided and dense.num_heads == dense.num_key_value_heads
    if layer.query.tensor == layer.key.tensor and not is_divided:
        # Where queries or keys end may be a number that no module keeps, as in Phi-3, or another one.
        own = in_place_of(module, layer, dense, sizes)
        if own is not None and not own.projections.by_head:
            return own, False
    # timm's fused path scales by the size of what it gets, the other one by a stored number: bring both in line.
    follows = hasattr(module, "fused_attn") and sizes.query_size != dense.query_size
    if follows and abs(float(module.scale) - dense.query_size**-0.5) < 1e-9:
        module.scale = sizes.query_size**-0.5
    return module, follows


def pick_places(module: nn.Module, layer: AttentionLayer, removed: Removed) -> None:
    """Tell the module of an attention layer which entries of rotary tables belong to the dimensions that are left.

    Raises:
        ValueError: there are such tables, and the module knows no way to pick from them.
    """
    if isinstance(module, SlopedAttention):
        module.pick_heads(layer.heads_left(removed))
    is_smaller = layer.sizes(removed).query_size != layer.sizes().query_size
    if isinstance(module, SeparateAttention | TableAttention):
        if (layer.is_rotary and is_smaller) or module.places is not None:
            module.pick_places(*layer.places(removed))
    elif layer.is_rotary and is_smaller:
        raise ValueError(f"{type(module).__name__} turns queries and keys by the same tables in every head")


def _of_two_sizes(module: Any, layer: AttentionLayer, dense: HeadSizes, sizes: HeadSizes) -> nn.Module:
    if is_of_tables(module):
        return TableAttention(module, sizes, dense.query_size**-0.5)
    layers = {name for name, _ in module.named_children()}
    # Tables of positions and layers of other names do what SplitAttention knows nothing of.
    if _FUSED <= layers <= _FUSED | _ALSO_FUSED and not dict(module.named_parameters(recurse=False)):
        return SplitAttention(module, sizes, float(getattr(module, "scale", dense.query_size**-0.5)))
    own = in_place_of(module, layer, dense, sizes)
    return module if own is None else own  # it may find its sizes from its layers; the trial cut shows


def in_place_of(
    module: nn.Module, layer: AttentionLayer, dense: HeadSizes, sizes: HeadSizes
) -> SeparateAttention | None:
    """A module of ours that does what one of transformers does, with heads of other sizes; None where none is known."""
    projections = projections_of(module, layer)
    if projections is not None:
        try:
            made = next((ours for is_it, ours in _MAKES if is_it(module)), SeparateAttention)
            return made(module, projections, sizes, dense.query_size**-0.5)
        except ValueError:  # not of that make
            pass
    return None


def _renumber(module: Any, names: tuple[str, ...], dense: int, now: int) -> bool:
    """Change the numbers of these names where they are what the dense module has; is there one?"""
    found = [name for name in names if getattr(module, name, None) == dense]
    for name in found:
        setattr(module, name, now)
    return bool(found)
