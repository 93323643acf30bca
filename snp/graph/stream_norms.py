"""Which norms stand between a residual stream and its readers, and how are they written so that units can go?

RMSNorm divides a token by the root mean square of all its units, LayerNorm first takes their mean away. The form used
here divides by a number of units that is fixed, so that units of zero weigh as much as units that are gone, and the
masked network is the small one. At the end stock norms take their places again, whose weights and epsilons make up
for the smaller number: x / sqrt(S / d + e) = sqrt(d' / d) x / sqrt(S / d' + e d / d') the other way round.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.copies import copied
from snp.graph.stream_scales import StreamScale, as_stream_scale
from snp.graph.untied import untie, with_plain_heads

__all__ = ["StreamNorm", "stream_norms_in", "with_stock_norms", "with_stream_norms"]

_EPSILONS = ("eps", "variance_epsilon", "epsilon")
_library = torch.library.Library("snp", "DEF")
_library.define("stream_norm(Tensor x, Tensor weight, Tensor? bias, int size, float eps, bool centres) -> Tensor")


def _stream_norm(x: Tensor, weight: Tensor, bias: Tensor | None, size: int, eps: float, centres: bool) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if centres:
        wide = wide - wide.mean(dim=-1, keepdim=True)
    normed = wide * torch.rsqrt(wide.square().sum(dim=-1, keepdim=True) / size + eps)
    scaled = normed.to(x.dtype) * weight
    return scaled if bias is None else scaled + bias


_library.impl("stream_norm", _stream_norm, "CompositeImplicitAutograd")


class StreamNorm(nn.Module):
    """LayerNorm or RMSNorm of a residual stream, divided by a number of units that does not fall with a cut.

    Args:
        stock: the norm whose place it takes; its weights are taken over, copied.
        eps: its epsilon.
        centres: it takes the mean of the units away.
        offset: what is added to its weight before it multiplies (1 in Gemma).
    """

    def __init__(self, stock: Any, eps: float, *, centres: bool, offset: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(stock.weight.detach() + offset, requires_grad=stock.weight.requires_grad)
        bias = getattr(stock, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.size, self.eps, self.centres, self._offset = len(stock.weight), eps, centres, offset
        self.is_layer_norm = centres  # also once nothing is left for it to centre
        self._stock = (_without_weights(stock),)  # in a tuple, it is no part of the network
        self.training = stock.training

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Shape [..., units] -> the same."""
        normed: Tensor = torch.ops.snp.stream_norm(
            hidden_states, self.weight, self.bias, self.size, self.eps, self.centres
        )
        return normed

    def stock(self) -> nn.Module:
        """The norm of the stock class that computes the same with the units that are left."""
        norm: Any = copy.deepcopy(self._stock[0])
        share = self.size / len(self.weight)
        weight = self.weight.detach() * share**0.5 - self._offset
        norm.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        if self.bias is not None:
            norm.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        setattr(norm, _epsilon_of(norm), self.eps * share)
        if hasattr(norm, "normalized_shape"):
            norm.normalized_shape = (len(weight),)
        norm.training = self.training
        assert isinstance(norm, nn.Module)
        return norm


def with_stream_norms(model: nn.Module) -> nn.Module:
    """A copy whose norms of the widest stream are :class:`StreamNorm`, and whose heads are tied to no embedding.

    Values do not matter here, so the same places are found in any network of that architecture.

    Raises:
        ValueError: there are no such norms.
    """
    if stream_norms_in(model):
        return model
    changed = copied(model)
    untie(changed)
    modules = dict(changed.named_modules(remove_duplicate=False))
    norms = {id(module): _as_stream_norm(module) for module in modules.values()}
    found = {name: norm for name, module in modules.items() if (norm := norms[id(module)]) is not None}
    energies: dict[int, int] = {}
    for norm in found.values():
        energies[norm.size] = energies.get(norm.size, 0) + norm.size
    widest = max(energies, key=lambda size: energies[size], default=0)
    if not widest:
        raise _no_norms(model)
    scales = {id(module): as_stream_scale(module, widest) for module in modules.values()}
    _put(changed, {name: norm for name, norm in found.items() if norm.size == widest})
    _put(changed, {name: scale for name, module in modules.items() if (scale := scales[id(module)]) is not None})
    return changed


def _no_norms(model: nn.Module) -> ValueError:
    """Why there is no width to cut."""
    bare = [n for n, m in model.named_modules() if hasattr(m, "normalized_shape") and not any(m.parameters())]
    if bare:
        return ValueError(
            f"prune.structures: the norms of {type(model).__name__} have no weights ({bare[0]} and others), and a "
            "smaller width changes a factor of what a norm gives out, which only its weight can hold: leave width out"
        )
    return ValueError(
        f"prune.structures: {type(model).__name__} has no LayerNorm or RMSNorm over the units of tokens, so there "
        "is no width to cut; leave width out (prune.streams=true cuts streams that meet no such norm)"
    )


def stream_norms_in(model: nn.Module) -> dict[str, StreamNorm]:
    """Names of norms in the form of this file."""
    return {name: module for name, module in model.named_modules() if isinstance(module, StreamNorm)}


def with_stock_norms(model: nn.Module) -> nn.Module:
    """The network with stock norms and layers again, which it is changed for."""
    ours = [(name, module) for name, module in model.named_modules() if isinstance(module, (StreamNorm, StreamScale))]
    _put(model, {name: module.stock() for name, module in ours})
    return with_plain_heads(model)


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)


def _without_weights(stock: nn.Module) -> nn.Module:
    """The module without what it holds: none of the dense network's memory."""
    memo: dict[int, Any] = {id(value): None for value in stock._parameters.values() if value is not None}
    return copy.deepcopy(stock, memo)


def _as_stream_norm(module: Any) -> StreamNorm | None:
    """The same norm in our form; None for what computes something else."""
    weight = module._parameters.get("weight")
    names = {name for name, value in module._parameters.items() if value is not None}
    if weight is None or weight.ndim != 1 or len(weight) < 2 or not names <= {"weight", "bias"} or module._modules:
        return None
    if not hasattr(module, _epsilon_of(module)) or not _takes_one_input(module):
        return None
    eps = getattr(module, _epsilon_of(module))
    if eps is None:  # PyTorch takes that of the precision it computes in; from here on it is written down
        eps = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).eps
    if not isinstance(eps, float):
        return None
    for centres, offset in ((True, 0.0), (False, 0.0), (False, 1.0)):
        norm = StreamNorm(module, eps, centres=centres, offset=offset)
        if _agree(module, norm, len(weight)):
            return norm
    return None


def _takes_one_input(module: nn.Module) -> bool:
    """A norm that may get a gate or a condition, too, is none of a stream."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return (
        sum(parameter.kind not in several for parameter in inspect.signature(module.forward).parameters.values()) == 1
    )


def _epsilon_of(module: Any) -> str:
    return next((name for name in _EPSILONS if hasattr(module, name)), "eps")


def _agree(stock: nn.Module, norm: nn.Module, size: int) -> bool:
    """Do both compute the same for some tokens that have a mean?"""
    weight = next(stock.parameters())
    tokens = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(0)).to(weight) + 0.5
    try:
        with torch.no_grad():
            wanted, found = (module(tokens).double() for module in (stock, norm))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return False
    tolerance = 64 * max(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps)  # many compute in that
    return wanted.shape == found.shape and bool(torch.allclose(wanted, found, rtol=tolerance, atol=tolerance))
