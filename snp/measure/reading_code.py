"""Is a weight read by a module of PyTorch's own, or by code of the model?"""

from __future__ import annotations

from torch import nn

from snp.graph.plain_experts import experts_around
from snp.graph.units import Reading, module_of
from snp.measure.patches import LARGEST_GRAM

__all__ = ["RECURRENT", "is_matrix_of_tokens", "is_stock"]

RECURRENT = (nn.RNNBase, nn.modules.rnn.RNNCellBase)
_STOCK = tuple(
    kind.forward
    for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
)


def is_stock(model: nn.Module, name: str, reading: Reading) -> bool:
    """Is the weight read by a module of PyTorch's own that gets what the operator gets?"""
    if module_of(name) != reading.module:
        return False
    module = model.get_submodule(reading.module)
    return isinstance(module, RECURRENT) or (name.endswith("weight") and type(module).forward in _STOCK)


def is_matrix_of_tokens(model: nn.Module, name: str, reading: Reading) -> bool:
    """Does a module's own code multiply vectors, channels last, with a matrix of its own, as transformers' Conv1D?"""
    weight = model.get_parameter(name)
    is_read = reading.channel_dim == reading.output_channel_dim == -1 and not reading.is_einsum
    is_own = module_of(name) == reading.module and experts_around(model, reading.module) is None
    return weight.ndim == 2 and is_read and is_own and weight.shape[reading.input_dim] <= LARGEST_GRAM
