"""Which module attends where the projections are layers of their own, and queries and values differ in size?

Modules of transformers divide the outputs of all three projections by one head size. This one takes over the layers of
such a module under their names, so that weights and plans fit, and divides by two sizes. How it attends is left to the
same functions that the stock module calls: rotary embeddings, caches, eager or fused attention are theirs.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from snp.graph.heads import AttentionLayer, HeadSizes
from snp.graph.units import module_of

__all__ = ["SeparateAttention", "projections_of"]

# Numbers of the stock module that would be wrong here; whatever still reads them has to fail.
_OF_ONE_SIZE = ("head_dim", "attention_head_size", "all_head_size", "embed_dim")
# Tensors that modules are given and that change nothing, or that the function that attends knows.
_HARMLESS = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")


def projections_of(module: nn.Module, layer: AttentionLayer) -> tuple[str, str, str] | None:
    """Names, inside the module, of three different linear layers for queries, keys and values, else None."""
    prefix = f"{layer.module}."
    names = [module_of(rows.tensor) for rows in (layer.query, layer.key, layer.value)]
    if len(set(names)) < 3 or not all(name.startswith(prefix) for name in names):
        return None
    query, key, value = (name.removeprefix(prefix) for name in names)
    if not all(isinstance(module.get_submodule(name), nn.Linear) for name in (query, key, value)):
        return None
    return query, key, value


class SeparateAttention(nn.Module):
    """Self-attention of transformers' make with sizes of queries and of values that may differ.

    Args:
        stock: a module whose file imports `ALL_ATTENTION_FUNCTIONS`; its layers and its numbers are taken over.
        projections: names of its layers for queries, keys and values. One further linear layer projects the output;
            `q_norm` and `k_norm` act on heads.
        sizes: of the heads.

    Raises:
        ValueError: the module attends in a way of its own.
    """

    scaling: float
    places: Tensor | None  # of each head of keys: which entries of rotary tables its dimensions meet, shape [H, D]

    def __init__(self, stock: nn.Module, projections: tuple[str, str, str], sizes: HeadSizes) -> None:
        super().__init__()
        for name, layer in stock.named_children():
            self.add_module(name, layer)
        plain = {name: value for name, value in vars(stock).items() if not name.startswith("_")}
        vars(self).update({name: value for name, value in plain.items() if name not in _OF_ONE_SIZE})
        self.projections, self.stock = projections, type(stock)
        others = [n for n, layer in stock.named_children() if isinstance(layer, nn.Linear) and n not in projections]
        if not hasattr(self._file(), "ALL_ATTENTION_FUNCTIONS") or not hasattr(self, "scaling") or len(others) > 1:
            raise ValueError(f"{self.stock.__name__} has one size for queries and values")
        self.output = others[0] if others else ""
        self.query_size, self.value_size = sizes.query_size, sizes.value_size
        self.register_buffer("places", None, persistent=False)  # the plan says it

    def pick_places(self, heads: Tensor, places: Tensor) -> None:
        """Keep some heads of keys, shape [H'], and of each some of the dimensions that it has now, shape [H', D']."""
        places = places if self.places is None else self.places.cpu()[heads].gather(1, places)
        self.places = places.to(next(self.parameters()).device)

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
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, N, C] to tokens [B, N, C], or to all heads' values where there is no output projection."""
        strange = [name for name, given in options.items() if isinstance(given, Tensor) and name not in _HARMLESS]
        if strange:  # tokens of an encoder, biases of positions: what they do in the stock module is not known here
            raise ValueError(f"{self.stock.__name__} is given {strange[0]}, which is not understood")
        sizes = (self.query_size, self.query_size, self.value_size)
        query, key, value = (
            self.get_submodule(name)(hidden_states).unflatten(-1, (-1, size))  # [B, N, H, D]
            for name, size in zip(self.projections, sizes, strict=True)
        )
        query, key = self._normalised("q_norm", query), self._normalised("k_norm", key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if position_embeddings is not None:
            query, key = self._turned(query, key, *position_embeddings)
        kept = cache if cache is not None else past_key_values
        if kept is not None:
            key, value = getattr(kept, "self_attention_cache", kept).update(key, value, self.layer_idx)
        attended, weights = self._attend()(
            self, query, key, value, attention_mask, dropout=self._dropout(), scaling=self.scaling, **options
        )
        attended = attended.flatten(2)  # [B, N, H * V]
        return self.get_submodule(self.output)(attended) if self.output else attended, weights

    def _normalised(self, name: str, heads: Tensor) -> Tensor:
        layer: Any = getattr(self, name, None)
        normalised: Tensor = heads if layer is None else layer(heads)
        return normalised

    def _turned(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, H, N, D] turned by angles per position [B or 1, N, D of the dense heads]."""
        turn = self._file().apply_rotary_pos_emb
        if self.places is None:
            turned: tuple[Tensor, Tensor] = turn(query, key, cos, sin)
            return turned
        found = []
        for heads in (query, key):
            places = self.places.repeat_interleave(heads.shape[1] // len(self.places), dim=0)
            # Each head is a sample of its own, with the entries of its own dimensions.
            own = [
                table[..., places].transpose(1, 2).expand(len(heads), -1, -1, -1).flatten(0, 1) for table in (cos, sin)
            ]
            alone = heads.flatten(0, 1)[:, None]
            found.append(turn(alone, alone[:, :0], *own)[0][:, 0].unflatten(0, heads.shape[:2]))
        return found[0], found[1]

    def _attend(self) -> Any:
        """The function that the configuration asks for, as the stock module finds it."""
        file: Any = self._file()
        config: Any = self.config
        return file.ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, file.eager_attention_forward)

    def _dropout(self) -> float:
        share = getattr(self, "attention_dropout", getattr(self, "dropout", 0.0))
        return float(getattr(share, "p", share)) if self.training else 0.0

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"query_size={self.query_size}, value_size={self.value_size}"
