"""What is the network itself?  A copy without what runs it elsewhere or faster, and later in the state it was in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from snp.graph.copies import copied, refuse_lazy
from snp.graph.modes import as_before, modes_of, set_modes

__all__ = ["alike", "at_rest", "evaluated", "evaluated_copy", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``, however deep."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def evaluated_copy(model: nn.Module) -> nn.Module:
    """The network itself in evaluation mode; nothing is shared with ``model``.

    Raises:
        ValueError: it cannot be copied; the message names the module or its attribute. Or it is no network any more,
            but a program of TorchScript or ``torch.export``.
    """
    inner = unwrapped(model)
    _refuse_programs(inner, [("", inner)])
    refuse_lazy(inner)
    return copied(inner).eval()


def _refuse_programs(model: nn.Module, parts: Iterable[tuple[str, nn.Module]]) -> None:
    """What was made of a network is none any more: no layer of it is called, and it may have no modes.

    Args:
        model: of TorchScript, perhaps.
        parts: name -> module that may be of ``torch.export``.
    """
    if isinstance(model, torch.jit.ScriptModule):
        name = getattr(model, "original_name", type(model).__name__)
        raise ValueError(
            f"{name} is scripted or traced (torch.jit): give the network it was made from, and script the small one"
        )
    for name, module in parts:
        if getattr(vars(module).get("eval"), "__module__", "") == "torch.export.exported_program":  # it only raises
            raise ValueError(
                f"{name or 'the model'} is the module of a torch.export program: give the network that was exported, "
                "and export the small one"
            )


@contextmanager
def evaluated(model: nn.Module) -> Iterator[nn.Module]:
    """The network itself in evaluation mode, and as it was behind the ``with`` block: its modes, and its buffers.

    Raises:
        ValueError: it is a program of TorchScript or ``torch.export``, or some layers have no weights yet.
    """
    inner = unwrapped(model)
    _refuse_programs(inner, inner.named_modules())
    refuse_lazy(inner)
    buffers = [(module, name, buffer, buffer.clone()) for module, name, buffer in _own_buffers(inner)]
    try:
        with as_before(inner):
            yield inner.eval()
    finally:
        for module, name, buffer, value in buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _own_buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            yield module, name, buffer


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside the ``with`` block; those that did ask for one again behind it."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def alike(small: nn.Module, dense: nn.Module) -> nn.Module:
    """Give a pruned network the modes and memory formats of the modules and tensors that it comes from.

    Args:
        small: changed in place. Modules that the dense network does not have follow the module they are in.
        dense: the network as it was given, perhaps wrapped.

    Returns:
        ``small``.
    """
    inner = unwrapped(dense)
    modes = modes_of(inner)
    for name, _ in small.named_modules():
        modes.setdefault(name, modes.get(name.rpartition(".")[0], inner.training))
    set_modes(small, modes)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    named = dict(inner.named_parameters())
    for name, parameter in small.named_parameters():
        before, wanted = named.get(name), formats.get(parameter.ndim)
        if before is not None and wanted is not None and before.ndim == parameter.ndim:
            is_plain = before.is_contiguous() or not before.is_contiguous(memory_format=wanted)
            parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format if is_plain else wanted)
    return small
