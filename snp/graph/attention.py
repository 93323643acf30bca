"""How do heads attend?  Rules for products of queries and keys, and of scores and values, fused or not.

A product of two activations is understood where neither has units along its tokens: then the summed dimension is
that of a head, the result holds scores, and scores times values have the values' units. All else stays frozen.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.labels import compact, distinct
from snp.graph.operators import constant_along
from snp.graph.traced import Call, module_running
from snp.graph.tracer import Tracer

__all__ = ["attend", "attention_macs", "multiply", "tie_biases"]


def attend(
    tracer: Tracer, node: fx.Node, query: Any, key: Any, value: Any, mask: Any, shares_keys: bool
) -> Tensor | None:
    """Labels of what scaled_dot_product_attention gives out, or None where it is not understood."""
    if not all(isinstance(part, Tensor) for part in (query, key, value)):
        return None
    if shares_keys:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(repeats, dim=-3) for part in (key, value))
    scores = _scores(tracer, node, query, key)
    if scores is None:
        return None
    if tracer.whole_heads and isinstance(mask, Tensor) and mask.ndim > 2 and mask.shape[-3] > 1:
        tie_biases(tracer, scores, mask)
    return _weighed(tracer, scores, value)


def multiply(tracer: Tracer, node: fx.Node, left: Any, right: Any) -> Tensor | None:
    """Labels of a product that is half of an attention layer, or None where it is not."""
    if not all(isinstance(part, Tensor) and part.ndim >= 3 for part in (left, right)):
        return None
    if set(distinct(left)) <= tracer.scores.keys():
        return _weighed(tracer, left, right)
    if set(distinct(right)) <= tracer.scores.keys():
        # Values as columns, as convolutions of one pixel give them: turned round, it is the same product.
        weighed = _weighed(tracer, right.mT, left.mT)
        return None if weighed is None else weighed.mT
    return _scores(tracer, node, left, right.transpose(-2, -1))


def tie_biases(tracer: Tracer, scores: Tensor, biases: Tensor) -> None:
    """Heads own their entries of biases that a layer makes. Of those that no cut changes the module picks its own.

    Zeros for each head are such biases, masks, and slopes of distances; a module that does not pick fails on trial.
    """
    is_constant = tracer.labels.are_constant(biases) and set(distinct(scores)) <= tracer.scores.keys()
    if not is_constant:
        tracer.labels.tie(scores, biases.expand(scores.shape))


def attention_macs(args: list[Any]) -> int:
    """Multiply-accumulates of both products of one fused call."""
    query, key, value = (tuple(arg.shape) for arg in args[:3])
    # Of one sample's queries, as learned ones, and many samples' keys; fewer heads of keys serve several of queries.
    lead = [max(sizes) for sizes in zip_longest(*(shape[-3::-1] for shape in (query, key, value)), fillvalue=1)]
    return int(math.prod(lead) * query[-2] * key[-2] * (query[-1] + value[-1]))


def _of_heads(tracer: Tracer, shadow: Tensor, lead: torch.Size) -> Tensor | None:
    """Labels [L, D] of an activation [..., tokens, D] whose units do not lie along its tokens, else None."""
    first = shadow[..., :1, :]
    if not constant_along(tracer, shadow, shadow.ndim - 2):
        return None
    return first[..., 0, :].expand(*lead, shadow.shape[-1]).reshape(-1, shadow.shape[-1])


def _scores(tracer: Tracer, node: fx.Node, query: Tensor, key: Tensor) -> Tensor | None:
    """Labels of query times key, shape [..., N, M]: one fresh label per head."""
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    heads = [_of_heads(tracer, part, lead) for part in (query, key)]
    if heads[0] is None or heads[1] is None or heads[0].shape != heads[1].shape:
        return None
    queries, keys = heads[0], heads[1]
    if tracer.whole_heads:
        for head in torch.cat([queries, keys], dim=1):
            tracer.labels.tie_all(head)
    else:
        tracer.labels.tie(queries, keys)
    shape = (*lead, query.shape[-2], key.shape[-2])
    implicit = "scaled_dot_product" in str(node.target) and node.kwargs.get("scale") is None
    call = Call(module_running(node) or "", queries, keys, math.prod(shape) * query.shape[-1], implicit)
    call.scores_alone = not tracer.is_given
    tracer.calls.append(call)
    _, inverse = torch.cat([queries, keys], dim=1).unique(dim=0, return_inverse=True)
    fresh = tracer.labels.new(int(inverse.max()) + 1)
    tracer.scores.update(dict.fromkeys(fresh.tolist(), call))
    labels = fresh[inverse]
    if tracer.whole_heads:
        tracer.labels.tie(labels, queries[:, 0])
    return labels.reshape(*lead, 1, 1).expand(shape)


def _weighed(tracer: Tracer, scores: Tensor, value: Tensor) -> Tensor | None:
    """Labels of scores times value: the values' own."""
    calls = {id(tracer.scores[label]): tracer.scores[label] for label in distinct(scores)}
    lead = torch.broadcast_shapes(scores.shape[:-2], value.shape[:-2])
    values = _of_heads(tracer, value, lead)
    call = next(iter(calls.values()))
    if len(calls) > 1 or values is None or len(values) != len(call.query) or call.value is not None:
        return None
    per_head = scores[..., 0, 0].expand(lead).reshape(-1)
    (distinct_scores,) = compact(scores)
    if not bool((distinct_scores == distinct_scores[..., :1, :1]).all()):
        return None
    if tracer.whole_heads:
        for label, head in zip(per_head, values, strict=True):
            tracer.labels.tie_all(torch.cat([label[None], head]))
    elif tracer.equal_sizes:
        if values.shape != call.query.shape:
            return None
        tracer.labels.tie(call.query, values)
    shape = (*lead, scores.shape[-2], value.shape[-1])
    call.value, call.value_macs = values, math.prod(shape) * scores.shape[-1]
    call.value_alone = not tracer.is_given
    return values.reshape(*lead, 1, value.shape[-1]).expand(shape)
