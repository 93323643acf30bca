"""Which module of transformers attends where queries and values differ in size, or pairs of dimensions are gone?

Modules of transformers divide the outputs of their projections by one head size. This one takes over the layers of
such a module under their names, so that weights and plans fit, and divides by two sizes. How it attends is left to the
same functions that the stock module calls: rotary embeddings, caches, eager or fused attention are theirs.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.heads import HeadSizes
from snp.surgery.projections import Projections, is_matrix

__all__ = ["SeparateAttention"]

# Numbers of the stock module that would be wrong here; whatever still reads them has to fail.
_OF_ONE_SIZE = ("head_dim", "head_size", "attention_head_size", "all_head_size", "split_size", "embed_dim")
# Names of the scale of products, and of what is dropped of the scores and of the output.
_SCALES = ("scaling", "scale")
_DROPOUT = ("attention_dropout", "attn_dropout", "attn_drop", "dropout_prob", "dropout_p", "dropout")
_OF_OUTPUT = ("resid_dropout", "out_drop")
_OPTIONS = {"softcap": "attn_logit_softcapping", "s_aux": "sinks"}
# Tensors that modules are given and that change nothing, or that the function that attends knows.
_HARMLESS = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")


class SeparateAttention(nn.Module):
    """Self-attention of transformers' make with sizes of queries and of values that may differ.

    Args:
        stock: a module whose file imports `ALL_ATTENTION_FUNCTIONS`; its layers and its numbers are taken over.
        projections: its layers for queries, keys and values. One further linear layer projects the output; `q_norm` and
            `k_norm` act on heads.
        sizes: of the heads.
        scaling: of products, where the module keeps none.

    Raises:
        ValueError: the module attends in a way of its own.
    """

    scaling: float
    places: Tensor | None  # of each head of keys: which entries of rotary tables its dimensions meet, shape [H, D]

    def __init__(self, stock: nn.Module, projections: Projections, sizes: HeadSizes, scaling: float) -> None:
        super().__init__()
        for name, layer in stock.named_children():
            self.add_module(name, layer)
        for name, parameter in stock.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        plain = {name: value for name, value in vars(stock).items() if not name.startswith("_")}
        vars(self).update({name: value for name, value in plain.items() if name not in _OF_ONE_SIZE})
        self.projections, self.stock = projections, type(stock)
        others = [n for n, layer in stock.named_children() if is_matrix(layer) and n not in projections.names]
        drops = [n for n, layer in stock.named_children() if isinstance(layer, nn.Dropout)]
        is_known = len(others) < 2 and {*drops} <= {*_DROPOUT, *_OF_OUTPUT}
        if not hasattr(self._file(), "ALL_ATTENTION_FUNCTIONS") or not is_known or self._upcasts(stock):
            raise ValueError(f"{self.stock.__name__} has one size for queries and values")
        self.scaling = next((getattr(self, name) for name in _SCALES if hasattr(self, name)), scaling)
        self.output = others[0] if others else ""
        self.query_size, self.value_size = sizes.query_size, sizes.value_size
        self.register_buffer("places", None, persistent=False)  # the plan says it
        self.first_places: list[int] = []  # of the first head; all heads have as many dimensions that are turned

    def pick_places(self, heads: Tensor, places: Tensor) -> None:
        """Keep some heads of keys, shape [H'], and of each some of the dimensions that it has now, shape [H', D']."""
        places = places if self.places is None else self.places.cpu()[heads].gather(1, places)
        self.places, self.first_places = places.to(next(self.parameters()).device), places[0].tolist()

    def _file(self) -> Any:
        """The module of Python in which the stock attention is written."""
        return sys.modules[self.stock.__module__]

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        layer_past: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, N, C] to tokens [B, N, C], or to all heads' values where there is no output projection."""
        strange = [name for name, given in options.items() if isinstance(given, Tensor) and name not in _HARMLESS]
        if strange:  # tokens of an encoder, biases of positions: what they do in the stock module is not known here
            raise ValueError(f"{self.stock.__name__} is given {strange[0]}, which is not understood")
        query, key, value = self._projected(hidden_states)
        query, key = self._normalised("q_norm", query), self._normalised("k_norm", key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if position_embeddings is not None:
            query, key = self._turned(query, key, *position_embeddings)
        kept = next((held for held in (cache, past_key_values, layer_past) if held is not None), None)
        if kept is not None:
            key, value = getattr(kept, "self_attention_cache", kept).update(key, value, self.layer_idx)
        attended, weights = self._attend()(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self._dropout(),
            scaling=self.scaling,
            **{**self._own_options(), **options},
        )
        attended = attended.flatten(2)  # [B, N, H * V]
        attended = self.get_submodule(self.output)(attended) if self.output else attended
        for name in _OF_OUTPUT:
            attended = getattr(self, name)(attended) if hasattr(self, name) else attended
        return attended, weights

    def _projected(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, [B, N, H, D]."""
        outputs = [self.get_submodule(name)(hidden_states) for name in self.projections.names]
        if self.projections.is_fused:
            return self.projections.divided(outputs[0], self.query_size, self.value_size)
        sizes = (self.query_size, self.query_size, self.value_size)
        query, key, value = (part.unflatten(-1, (-1, size)) for part, size in zip(outputs, sizes, strict=True))
        return query, key, value

    @staticmethod
    def _upcasts(stock: nn.Module) -> bool:
        """Does it multiply in a way of its own, as GPT-2 on request?"""
        return bool(getattr(stock, "reorder_and_upcast_attn", False))

    def _normalised(self, name: str, heads: Tensor) -> Tensor:
        layer: Any = getattr(self, name, None)
        normalised: Tensor = heads if layer is None else layer(heads)
        return normalised

    def _turned(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, H, N, D], the first R dimensions turned by angles per position [B or 1, N, R or more].

        Tables have entries for the dense heads, each head's first dimensions; further ones of a head are not turned.
        """
        turn, width = self._file().apply_rotary_pos_emb, cos.shape[-1]
        if self.places is None:
            first = [heads[..., :width] for heads in (query, key)]
            turned = [*turn(*first, cos, sin)]
        else:
            places = self.places[:, : sum(place < width for place in self.first_places)]
            first = [heads[..., : places.shape[1]] for heads in (query, key)]
            turned = [self._turned_by_head(heads, places, cos, sin) for heads in first]
        width = first[0].shape[-1]
        query, key = (
            torch.cat([part, heads[..., width:]], dim=-1) if heads.shape[-1] > width else part
            for part, heads in zip(turned, (query, key), strict=True)
        )
        return query, key

    def _turned_by_head(self, heads: Tensor, places: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Heads [B, H, N, D] turned by the entries of their own dimensions, [H of keys, D]."""
        places = places.repeat_interleave(heads.shape[1] // len(places), dim=0)
        # Each head is a sample of its own.
        own = [table[..., places].transpose(1, 2).expand(len(heads), -1, -1, -1).flatten(0, 1) for table in (cos, sin)]
        alone = heads.flatten(0, 1)[:, None]
        turn = self._file().apply_rotary_pos_emb
        turned: Tensor = turn(alone, alone[:, :0], *own)[0][:, 0].unflatten(0, heads.shape[:2])
        return turned

    def _attend(self) -> Any:
        """The function that the configuration asks for, as the stock module finds it."""
        file: Any = self._file()
        config: Any = self.config
        return file.ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, file.eager_attention_forward)

    def _own_options(self) -> dict[str, Any]:
        """What stock modules tell the function that attends beside sizes: windows, caps of scores, sinks."""
        found = {option: getattr(self, name) for option, name in _OPTIONS.items() if hasattr(self, name)}
        window = getattr(self, "sliding_window", getattr(self.config, "sliding_window", None))
        if window is not None and getattr(self, "is_sliding", True):
            found["sliding_window"] = window
        return found

    def _dropout(self) -> float:
        share = next((getattr(self, name) for name in _DROPOUT if hasattr(self, name)), 0.0)
        return float(getattr(share, "p", share)) if self.training else 0.0

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"query_size={self.query_size}, value_size={self.value_size}"
