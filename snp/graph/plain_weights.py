"""Which layers compute their kernel on the way, and which plain layer does the same?

Weight standardisation, weight and spectral norms make a kernel from parameters alone: in evaluation it is a constant.
With that constant as its weight, a plain layer has rows and columns of its own, which can be cut and fitted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snp.graph.copies import copied, forget_how_to_load, refuse_quantised, without_hooks
from snp.graph.plain_attention import plain_attention
from snp.graph.plain_experts import plain_experts
from snp.graph.stream_norms import with_stream_norms
from snp.graph.units import module_of

__all__ = ["SamePaddedConv2d", "plain_for", "with_plain_weights"]


def plain_for(model: nn.Module, structures: Sequence[str]) -> nn.Module:
    """The model as it is cut, see :func:`with_plain_weights`.

    Args:
        model: in evaluation mode.
        structures: ``prune.structures``.

    Raises:
        ValueError: as there.
    """
    attention = not {"vo", "qk", "heads"}.isdisjoint(structures)
    return with_plain_weights(model, attention=attention, width="width" in structures)


def with_plain_weights(model: nn.Module, *, attention: bool = False, width: bool = False) -> nn.Module:
    """The model in evaluation mode with every kernel that is computed from parameters written down as a weight.

    Found are two-dimensional convolutions of any class whose ``forward`` computes its kernel, layers with a
    parametrised weight (``torch.nn.utils.parametrize``), and weights that hooks compute (:mod:`snp.graph.copies`).
    Stacked experts become plain layers (:mod:`snp.graph.plain_experts`). The result computes the same; fine-tuning it
    no longer standardises. The model itself comes back where there is nothing
    to write down, and is never changed.

    Args:
        model: in evaluation mode.
        attention: `nn.MultiheadAttention` becomes plain layers, too (:mod:`snp.graph.plain_attention`), for cuts in it.
        width: norms of the stream get a form that allows cuts in it (:mod:`snp.graph.stream_norms`).

    Raises:
        ValueError: the model is quantised, or cannot be copied, or has no such stream.
    """
    refuse_quantised(model)
    model = without_hooks(model)
    model = with_stream_norms(model) if width else model
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        plain = _without_parametrization(module) or _plain(module) or plain_experts(module)
        plain = plain_attention(module) if plain is None and attention else plain
        if plain is not None:
            found[id(module)] = plain
    names = [name for name, module in model.named_modules(remove_duplicate=False) if id(module) in found and name]
    if not names:
        return model
    originals = dict(model.named_modules(remove_duplicate=False))
    changed = copied(model)
    for name in names:
        setattr(changed.get_submodule(module_of(name)), name.rpartition(".")[2], found[id(originals[name])])
    return changed


class SamePaddedConv2d(nn.Conv2d):
    """A convolution that pads with zeros until a stride of s leaves ceil(size / s) positions, more at the far end."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, I, H, W] -> [N, O, ceil(H / s), ceil(W / s)]."""
        sides: list[int] = []
        for axis in (1, 0):  # padding is given from the last dimension on
            kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            size = x.shape[2 + axis]
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _without_parametrization(module: nn.Module) -> nn.Module | None:
    parametrizations = getattr(module, "parametrizations", None)
    if not isinstance(parametrizations, nn.ModuleDict) or set(parametrizations) != {"weight"}:
        return None
    # Removing it would take the attribute from the class, which copies share: the class underneath gets the rest.
    kind: type[nn.Module] = type(module).__bases__[0]
    plain: nn.Module = object.__new__(kind)
    plain.__dict__ = {name: copy.copy(value) for name, value in vars(module).items()}
    del plain._modules["parametrizations"]
    forget_how_to_load(plain)
    with torch.enable_grad():
        weight = module.weight
    assert isinstance(weight, Tensor)
    for name, value in [*module._parameters.items(), ("weight", weight)]:
        if value is not None:
            # A weight that is computed from trained parameters is trained, and else it is not.
            plain.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
    return plain


class _Convolutions(TorchFunctionMode):
    """Keeps the arguments of every convolution that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            self.found.append(dict(zip(names, args, strict=False)) | (kwargs or {}))
        return func(*args, **(kwargs or {}))


def _plain(module: nn.Module) -> nn.Conv2d | None:
    """A plain convolution for one that computes its kernel; None for all others."""
    if not isinstance(module, nn.Conv2d) or type(module).forward in (nn.Conv2d.forward, SamePaddedConv2d.forward):
        return None
    reach = max((k - 1) * d + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True))
    # Two sizes show padding that depends on the size; two inputs, a kernel that depends on the input.
    probes = [_probe(module, reach + max(module.stride) + extra) for extra in (0, 1)]
    for kind in (nn.Conv2d, SamePaddedConv2d):
        plain = _built(kind, module, probes[0])
        if plain is not None and all(_agrees(plain, probe) for probe in probes):
            return plain
    return None


def _probe(module: nn.Conv2d, size: int) -> dict[str, Any]:
    """Arguments of the one convolution that the layer computes, its input and its output; empty if it is not one."""
    inputs = torch.randn(1, module.in_channels, size, size, generator=torch.Generator().manual_seed(size))
    inputs = inputs.to(module.weight)
    with torch.no_grad(), _Convolutions() as convolutions:
        try:
            output = module(inputs)
        except RuntimeError:  # a layer that takes other inputs than a convolution does stays as it is
            return {}
    if len(convolutions.found) != 1 or not isinstance(output, Tensor):
        return {}
    probe: dict[str, Any] = convolutions.found[0] | {"given": inputs, "output": output}
    return probe


def _built(kind: type[nn.Conv2d], module: nn.Conv2d, probe: Mapping[str, Any]) -> nn.Conv2d | None:
    weight, bias = probe.get("weight"), probe.get("bias")
    if weight is None or weight is module.weight or weight.shape != module.weight.shape:
        return None
    rows, columns = module.kernel_size
    plain = kind(
        module.in_channels, module.out_channels, (rows, columns), probe.get("stride", 1), probe.get("padding", 0),
        probe.get("dilation", 1), probe.get("groups", 1), bias is not None, device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        plain.weight.copy_(weight)
        if bias is not None and plain.bias is not None:
            plain.bias.copy_(bias)
    for parameter in plain.parameters():
        parameter.requires_grad_(module.weight.requires_grad)
    return plain.train(module.training)


def _agrees(plain: nn.Conv2d, probe: Mapping[str, Any]) -> bool:
    if not probe or not torch.equal(probe["weight"], plain.weight):
        return False
    with torch.no_grad():
        output = plain(probe["given"])
    return output.shape == probe["output"].shape and torch.allclose(output, probe["output"], rtol=1e-4, atol=1e-6)
