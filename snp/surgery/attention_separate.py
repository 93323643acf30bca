"""Which module of transformers attends where queries and values differ in size, or pairs of dimensions are gone?

Modules of transformers divide the outputs of their projections by one head size. This one takes over the layers of
such a module under their names, so that weights and plans fit, and divides by two sizes. How it attends is left to the
same functions that the stock module calls: rotary embeddings, caches, eager or fused attention are theirs.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from snp.graph.heads import HeadSizes
from snp.surgery.projections import Projections, is_matrix
from snp.surgery.rotary_places import turning_of

__all__ = ["SeparateAttention"]

# Numbers of the stock module that would be wrong here; whatever still reads them has to fail.
_OF_ONE_SIZE = """head_dim head_size attention_head_size key_value_proj_dim
    all_head_size split_size embed_dim inner_dim""".split()
# Names of the scale of products, and of what is dropped of the scores and of the output.
_SCALES = ("scaling", "scale")
_DROPOUT = ("attention_dropout", "attn_dropout", "attn_drop", "dropout_prob", "dropout_p", "dropout")
_OF_OUTPUT = ("resid_dropout", "out_drop")
_NORMS = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"))
_BEFORE = ("EsmSelfAttention",)  # scales queries by the size of heads, and products by a number of its own
_OPTIONS = {"softcap": "attn_logit_softcapping", "s_aux": "sinks"}
# Tensors that modules are given and that change nothing, or that the function that attends knows.
_HARMLESS = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")

Heads = tuple[Tensor, Tensor, Tensor]


class SeparateAttention(nn.Module):
    """Attention of transformers' make with sizes of queries and of values that may differ.

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
        if not is_known or not self._is_of_this_make(stock):
            raise ValueError(f"{self.stock.__name__} has one size for queries and values")
        self.scaling = next((getattr(self, name) for name in _SCALES if hasattr(self, name)), scaling)
        self.scaling *= scaling if self.stock.__name__ in _BEFORE else 1.0
        turn: Any = getattr(self._file(), "apply_rotary_pos_emb", None)
        self.turning = turning_of(turn, getattr(self, "rotary_ndims", None))
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
        key_value_states: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        layer_past: Any = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Tokens [B, N, C] to tokens [B, N, C], or to all heads' values where there is no output projection.

        Keys and values are made of ``key_value_states`` [B, M, C'] where these are given.
        """
        strange = [name for name, given in options.items() if isinstance(given, Tensor) and name not in _HARMLESS]
        if strange:  # biases of positions: what they do in the stock module is not known here
            raise ValueError(f"{self.stock.__name__} is given {strange[0]}, which is not understood")
        kept = next((held for held in (cache, past_key_values, layer_past) if held is not None), None)
        if key_value_states is None:
            heads = self._of_tokens(hidden_states, kept, position_embeddings)
        else:
            heads = self._of_others(hidden_states, key_value_states, kept)
        return self._attended(heads, attention_mask, **options)

    def _attended(self, heads: Heads, mask: Tensor | None, **options: Any) -> tuple[Tensor, Tensor | None]:
        """What the output projection makes of queries, keys and values, and the weights of these."""
        own = self._own_options()
        attended, weights = self._attend()(
            self, *heads, mask, dropout=self._dropout(), scaling=self.scaling, **(own | options)
        )
        attended = attended.flatten(2)  # [B, N, H * V]
        attended = self.get_submodule(self.output)(attended) if self.output else attended
        for name in _OF_OUTPUT:
            attended = getattr(self, name)(attended) if hasattr(self, name) else attended
        return attended, weights

    def _of_tokens(self, tokens: Tensor, kept: Any, tables: tuple[Tensor, Tensor] | None) -> Heads:
        """Queries, keys and values, [B, H, N, D], of tokens that look at each other and at those before them."""
        names = self.projections.names
        if self.projections.is_fused:
            outputs = self.get_submodule(names[0])(tokens)
            query, key, value = self.projections.divided(outputs, self.query_size, self.value_size)
        else:
            query, key, value = (self._made(name, tokens) for name in names)
        query, key = self._normalised(query, 0), self._normalised(key, 1)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if tables is not None:
            query, key = self.turning.heads(query, key, tables, self.places, self.first_places)
        if kept is not None:
            key, value = getattr(kept, "self_attention_cache", kept).update(key, value, self.layer_idx)
        return query, key, value

    def _of_others(self, tokens: Tensor, others: Tensor, kept: Any) -> Heads:
        """Queries of tokens, keys and values of others; a cache keeps those from the first token that is generated."""
        if self.projections.is_fused:
            raise ValueError(f"{self.stock.__name__} is given key_value_states, which is not understood")
        of_query, of_key, of_value = self.projections.names
        query = self._normalised(self._made(of_query, tokens), 0).transpose(1, 2)
        of_both = hasattr(kept, "cross_attention_cache")
        if of_both and kept.is_updated.get(self.layer_idx):
            held = kept.cross_attention_cache.layers[self.layer_idx]
            return query, held.keys, held.values
        key, value = self._normalised(self._made(of_key, others), 1), self._made(of_value, others)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if kept is not None:
            key, value = getattr(kept, "cross_attention_cache", kept).update(key, value, self.layer_idx)
        if of_both:
            kept.is_updated[self.layer_idx] = True
        return query, key, value

    def _made(self, name: str, tokens: Tensor) -> Tensor:
        """What one of three projections makes of tokens, head by head, [B, N, H, D]."""
        size = self.value_size if name == self.projections.names[2] else self.query_size
        made: Tensor = self.get_submodule(name)(tokens)
        return made.unflatten(-1, (-1, size))

    @staticmethod
    def _is_of_this_make(stock: Any) -> bool:
        """Does it call a function that the configuration names, and is never told to multiply by itself (GPT-2)?"""
        calls = hasattr(sys.modules[type(stock).__module__], "ALL_ATTENTION_FUNCTIONS")
        return calls and not getattr(stock, "reorder_and_upcast_attn", False)

    def _normalised(self, heads: Tensor, role: int) -> Tensor:
        """Queries, or keys, [B, N, H, D], normed head by head, or all heads together."""
        layer: Any = next((getattr(self, names[role]) for names in _NORMS if hasattr(self, names[role])), None)
        if layer is None:
            return heads
        is_by_head = layer.weight is None or layer.weight.shape[-1] == heads.shape[-1]
        normalised: Tensor = layer(heads) if is_by_head else layer(heads.flatten(2)).unflatten(-1, heads.shape[2:])
        return normalised

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
