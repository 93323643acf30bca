"""Which products of flattened tokens are products of the tokens themselves?

``transformers.pytorch_utils.Conv1D`` (GPT-2) writes ``addmm(bias, x.view(-1, K), weight).view(N, T, O)``. What is
known of tokens, their samples and the residual stream behind the layer, is lost between both views.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

__all__ = ["product_of_tokens", "with_tokens"]

_VIEWS = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")


def product_of_tokens(bias: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
    """Tokens [..., K] times a weight [K, O], plus a bias [O], as one product of a matrix: [..., O]."""
    return torch.addmm(bias, tokens.reshape(-1, tokens.shape[-1]), weight).reshape(*tokens.shape[:-1], -1)


def with_tokens(graph: fx.Graph) -> fx.Graph:
    """The same computation with :func:`product_of_tokens` in the place of such products and the views around them."""
    if not any(_is_flattened(node) for node in graph.nodes):
        return graph
    found = fx.Graph()
    found.output(found.graph_copy(graph, {}))
    for node in [node for node in found.nodes if _is_flattened(node)]:
        _rejoin(found, node)
    return found


def _is_flattened(node: fx.Node) -> bool:
    if str(node.target) != "aten.addmm.default" or node.kwargs or len(node.users) != 1:
        return False
    bias, flat, behind = node.args[0], node.args[1], next(iter(node.users))
    if not isinstance(flat, fx.Node) or str(flat.target) not in _VIEWS or str(behind.target) not in _VIEWS:
        return False
    tokens = flat.args[0]
    assert isinstance(tokens, fx.Node)
    before, after = (view.meta["val"].shape for view in (tokens, behind))
    is_bias = isinstance(bias, fx.Node) and bias.meta["val"].ndim == 1
    return is_bias and len(before) > 2 and before[:-1] == after[:-1] and before[-1] == flat.meta["val"].shape[-1]


def _rejoin(graph: fx.Graph, product: fx.Node) -> None:
    bias, flat, weight = product.args
    assert isinstance(flat, fx.Node)
    (behind,) = product.users
    with graph.inserting_before(product):
        joined = graph.call_function(product_of_tokens, (bias, flat.args[0], weight))
    joined.meta["val"] = behind.meta["val"]
    behind.replace_all_uses_with(joined)
    for node in (behind, product, flat):
        if not node.users:
            graph.erase_node(node)
