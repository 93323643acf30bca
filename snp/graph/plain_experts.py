"""Which module of plain linear layers does what a mixture of experts with stacked weights does, and back again?

Transformers keeps the weights of all experts of a layer in one tensor each, and computes with them in one call. With
layers of their own, hidden units of every expert can be told apart, measured, cut and folded like everywhere else.
All experts of a layer keep equally many (:attr:`snp.graph.units.UnitGroup.twins`), so that the small network is a
stacked one again.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PlainExperts", "experts_around", "plain_experts", "restacked"]

_SIZES = ("intermediate", "expert_dim", "ffn_dim")  # in names of numbers of hidden units that stacked experts keep


class _Expert(nn.Module):
    """Up, gate or activation, down."""

    def __init__(self, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.up, self.down = up, down


class PlainExperts(nn.Module):
    """Experts with the call of the stacked ones.

    Args:
        stock: its weights are taken over, copied.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        first = "gate_up_proj" if stock.has_gate else "up_proj"
        self._names = (first, "down_proj")
        layers = [_layers(stock, name) for name in self._names]
        self.each = nn.ModuleList(_Expert(up, down) for up, down in zip(*layers, strict=True))
        self.num_chosen = 1  # experts per token, as the last call said
        self._stock = (_without_weights(stock),)  # in a tuple, it is no part of the network
        self.training = stock.training

    @property
    def share(self) -> float:
        """Of all tokens that an expert gets on average."""
        return self.num_chosen / len(self.each)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """As there.

        Args:
            hidden_states: shape [T, C].
            top_k_index: the k experts of each token, shape [T, k].
            top_k_weights: how much each of them counts, shape [T, k].

        Returns:
            Shape [T, C].
        """
        self.num_chosen = top_k_index.shape[-1]
        result = torch.zeros_like(hidden_states)
        for number, expert in enumerate(self.each):
            chosen = top_k_index == number
            if torch.compiler.is_exporting():
                # How many tokens an expert gets is unknown to a graph: it gets all, the others' as zeros.
                weights = (top_k_weights * chosen).sum(-1, keepdim=True)
                masked = hidden_states * chosen.any(-1, keepdim=True).to(hidden_states.dtype)
                result = result + (self._expert(expert, masked) * weights).to(result.dtype)
                continue
            tokens, places = torch.where(chosen)
            found = self._expert(expert, hidden_states[tokens]) * top_k_weights[tokens, places, None]
            result.index_add_(0, tokens, found.to(result.dtype))
        return result

    def _expert(self, expert: Any, tokens: Tensor) -> Tensor:
        stock: Any = self._stock[0]
        hidden = expert.up(tokens)
        found: Tensor = expert.down(stock._apply_gate(hidden) if stock.has_gate else stock.act_fn(hidden))
        return found

    def stacked(self) -> nn.Module:
        """The stock module with these weights.

        Raises:
            ValueError: experts have different sizes.
        """
        experts: list[Any] = list(self.each)
        sizes = {int(expert.down.in_features) for expert in experts}
        if len(sizes) > 1:
            raise ValueError(f"experts with {sorted(sizes)} hidden units cannot be stacked")
        dense: Any = self._stock[0]
        turned, stock = dense.is_transposed, _without_weights(dense)
        parts = ([e.up for e in experts], [e.down for e in experts])
        for name, layers in zip(self._names, parts, strict=True):
            weight = torch.stack([layer.weight.detach().T if turned else layer.weight.detach() for layer in layers])
            setattr(stock, name, nn.Parameter(weight, requires_grad=layers[0].weight.requires_grad))
            if dense.has_bias:
                bias = torch.stack([layer.bias.detach() for layer in layers])
                setattr(stock, f"{name}_bias", nn.Parameter(bias, requires_grad=layers[0].bias.requires_grad))
        before = dense.down_proj.shape[1 if turned else 2]
        for name, value in list(vars(stock).items()):
            if type(value) is int and value == before and any(word in name for word in _SIZES):
                setattr(stock, name, *sizes)
        return stock.train(self.training)


def _layers(stock: Any, name: str) -> list[nn.Linear]:
    """One layer per expert."""
    weights, biases = getattr(stock, name), getattr(stock, f"{name}_bias") if stock.has_bias else None
    found = []
    for number, weight in enumerate(weights.detach()):
        weight = weight.T if stock.is_transposed else weight
        layer = nn.Linear(
            weight.shape[1], weight.shape[0], biases is not None, device=weight.device, dtype=weight.dtype
        )
        with torch.no_grad():
            layer.weight.copy_(weight)
            if biases is not None:
                layer.bias.copy_(biases[number])
        found.append(layer.requires_grad_(weights.requires_grad))
    return found


def _without_weights(stock: nn.Module) -> nn.Module:
    """The module without memory for its parameters; its configuration stays the network's."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in stock.parameters()}
    config = getattr(stock, "config", None)
    if config is not None:
        memo[id(config)] = config
    return copy.deepcopy(stock, memo)


def plain_experts(module: nn.Module) -> PlainExperts | None:
    """The same experts in plain layers; None for other modules, and where these compute something else."""
    stock: Any = module
    weight = getattr(module, "down_proj", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 3 or not hasattr(module, "_apply_gate"):
        return None
    if getattr(module, "has_post_expert_norm", True) or getattr(module, "_is_expert_parallel", False):
        return None
    plain = PlainExperts(stock)
    return plain if _agree(stock, plain) and _agree(plain.stacked(), plain) else None


def restacked(model: nn.Module) -> nn.Module:
    """The network with stacked experts in the place of plain ones, which it is changed for.

    Raises:
        ValueError: stacked experts of these sizes compute something else.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {id(module): module.stacked() for module in modules.values() if isinstance(module, PlainExperts)}
    for name, module in modules.items():
        if id(module) in found:
            if not _agree(found[id(module)], module):
                raise ValueError(
                    f"{name}: stacked experts of these sizes compute something else; name it in prune.ignore"
                )
            setattr(modules[name.rpartition(".")[0]], name.rpartition(".")[2], found[id(module)])
    return model


def experts_around(model: nn.Module, name: str) -> str | None:
    """Name of the plain experts that a module belongs to; None where there are none."""
    while name:
        name = name.rpartition(".")[0]
        if isinstance(model.get_submodule(name), PlainExperts):
            return name
    return None


def _agree(stock: nn.Module, plain: Any) -> bool:
    """Do both compute the same for some tokens?"""
    weight = plain.each[0].up.weight
    generator, num_experts = torch.Generator().manual_seed(0), len(plain.each)
    tokens = torch.randn(2 * num_experts, weight.shape[1], generator=generator).to(weight)
    scores = torch.rand(len(tokens), num_experts, generator=generator).to(weight)
    shares, chosen = scores.topk(min(2, num_experts), dim=-1)
    try:
        with torch.no_grad():
            wanted, found = (module(tokens, chosen, shares).double() for module in (stock, plain))
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError):
        return False
    rounding = 64 * torch.finfo(weight.dtype).eps * math.sqrt(weight.shape[1])
    difference = (wanted - found).abs().max() if wanted.shape == found.shape else math.inf
    return bool(difference <= rounding * wanted.abs().max().clamp_min(1e-30))
