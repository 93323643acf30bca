"""Which factors stand between a layer and the stream that it is added to, and may they go into the layer?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StreamScale", "as_stream_scale"]


class StreamScale(nn.Module):
    """A factor for every unit (LayerScale), to be told from other parameters.

    Args:
        stock: the module whose place it takes; its factors are taken over, copied.
        name: of its only parameter.
    """

    def __init__(self, stock: nn.Module, name: str) -> None:
        super().__init__()
        factors = stock.get_parameter(name)
        self.weight = nn.Parameter(factors.detach().clone(), requires_grad=factors.requires_grad)
        memo: dict[int, Any] = {id(factors): None}
        self._stock = (name, copy.deepcopy(stock, memo))  # in a tuple, it is no part of the network
        self.training = stock.training

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Shape [..., units] -> the same."""
        return hidden_states * self.weight

    def stock(self) -> nn.Module:
        """The module of the stock class with the factors that are left."""
        name, module = self._stock[0], copy.deepcopy(self._stock[1])
        module.register_parameter(name, nn.Parameter(self.weight.detach().clone(), self.weight.requires_grad))
        module.training = self.training
        return module


def as_stream_scale(module: nn.Module, size: int) -> StreamScale | None:
    """The same factors in our form; None for what computes something else, or with another number of units."""
    found = [(name, value) for name, value in module._parameters.items() if value is not None]
    if len(found) != 1 or module._modules or module._buffers or tuple(found[0][1].shape) != (size,):
        return None
    tokens = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(0)).to(found[0][1])
    try:
        with torch.no_grad():
            given = module(tokens.clone())
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return None
    is_same = isinstance(given, Tensor) and torch.equal(given, tokens * found[0][1].detach())
    return StreamScale(module, found[0][0]) if is_same else None
