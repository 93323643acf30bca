"""Which numbers do modules keep beside their tensors, and what are they once units are gone?"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from snp.graph.units import Count

__all__ = ["is_turned", "recount", "refresh"]


def refresh(module: nn.Module) -> None:
    """Bring the sizes that a module keeps beside its tensors in line with them."""
    if isinstance(module, (nn.RNNBase, nn.modules.rnn.RNNCellBase)):
        _refresh_recurrent(module)
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        weight = getattr(module, "running_mean", None)  # a norm may have statistics only
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvNd):
        _refresh_convolution(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = weight.shape[0] // (module.num_channels // module.num_groups)
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
    elif is_turned(module):  # transformers' linear layer
        vars(module).update(nx=weight.shape[0], nf=weight.shape[1])


def is_turned(module: nn.Module) -> bool:
    """Is it a layer whose weight has inputs along its first dimension: a transposed convolution, Conv1D of GPT-2?"""
    is_transposed = isinstance(module, nn.modules.conv._ConvNd) and module.transposed
    return is_transposed or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def _refresh_recurrent(module: Any) -> None:
    first: Any = module.weight_ih_l0 if isinstance(module, nn.RNNBase) else module.weight_ih
    module.input_size = first.shape[1]
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # the list that it computes with


def _refresh_convolution(module: nn.modules.conv._ConvNd, weight: Tensor) -> None:
    rows, columns = weight.shape[:2]
    if module.groups > 1 and module.in_channels == module.groups:
        # Depthwise: a channel that goes takes its group along. Other grouped kernels keep their groups.
        module.groups = rows if module.transposed else rows // (module.out_channels // module.groups)
    if module.transposed:
        module.in_channels, module.out_channels = rows, columns * module.groups
    else:
        module.out_channels, module.in_channels = rows, columns * module.groups


def recount(model: nn.Module, count: Count, num_cut: int) -> None:
    """Take units that are gone off a number, or an entry of a list of sizes, that a module keeps.

    Args:
        model: owns the module; the list is replaced, not changed.
        count: which entry.
        num_cut: units that are gone.

    Raises:
        ValueError: the model has no such list.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    sizes: Any = getattr(modules.get(count.module), count.attribute, None)
    lost = count.width * num_cut
    if count.position is None and type(sizes) is int and sizes > lost:
        setattr(modules[count.module], count.attribute, sizes - lost)
        return
    if (
        count.position is None
        or type(sizes) not in (list, tuple)
        or count.position >= len(sizes)
        or sizes[count.position] < lost
    ):
        raise ValueError(
            f"the plan takes {lost} off entry {count.position} of {count.attribute} in {count.module}, which is "
            f"{sizes!r}: it was made for another model"
        )
    entries = [size - lost * (position == count.position) for position, size in enumerate(sizes)]
    setattr(modules[count.module], count.attribute, type(sizes)(entries))
