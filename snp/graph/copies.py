"""How is a network copied whose modules compute weights in hooks, and which cannot be copied or cut at all?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.prune import remove as remove_mask
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from snp.graph.modes import copy_in_modes

__all__ = ["copied", "forget_how_to_load", "refuse_lazy", "refuse_meta", "refuse_quantised", "without_hooks"]

_QUANTISED = ("torch.ao.quantization", "torch.ao.nn.", "torchao.quantization", "torch.nn.quantized", "bitsandbytes.nn")


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; weights that hooks computed are copied as constants.

    Raises:
        ValueError: some module cannot be copied; the message names it and what to do.
    """
    memo: dict[int, Any] = {}
    computed = {(id(module), _name_of(hook)) for module, hook in _hooks(model)}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                if (id(module), key) not in computed:
                    where = f"{name}.{key}" if name else key
                    raise ValueError(
                        f"model {type(model).__name__} cannot be copied: its attribute {where} is a tensor that was "
                        "computed with gradients; detach or delete it first"
                    )
                memo[id(value)] = value.detach().clone()
    try:
        return copy_in_modes(model, dict(memo))
    except Exception as error:  # whatever a module's own members raise
        name, module = _culprit(model, memo)
        raise ValueError(
            f"{name or 'the model'} ({type(module).__name__}) cannot be copied: {type(error).__name__}: {error}. "
            "Take out what it keeps that cannot be copied (locks, generators, open files, modules of other processes), "
            "or give its class a __deepcopy__"
        ) from error


def _culprit(model: nn.Module, memo: dict[int, Any]) -> tuple[str, nn.Module]:
    """The innermost module that cannot be copied."""
    found = ("", model)
    for name, module in model.named_modules():
        if name.startswith(found[0]) and not _is_copyable(module, memo):
            found = (name, module)
    return found


def _is_copyable(module: nn.Module, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(module, dict(memo))
    except Exception:  # as above
        return False
    return True


def without_hooks(model: nn.Module) -> nn.Module:
    """The model with every weight that a hook computes written down as a plain parameter.

    Weight norm and spectral norm in their old form (``torch.nn.utils.weight_norm``), and the masks of
    ``torch.nn.utils.prune``. The model itself comes back where there are none, and is never changed.
    """
    if not any(True for _ in _hooks(model)):
        return model
    changed = copied(model)
    for module, hook in list(_hooks(changed)):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            forget_how_to_load(module)
        else:
            remove_mask(module, _name_of(hook))
    return changed


def forget_how_to_load(module: nn.Module) -> None:
    """Take out of a module what looks for the tensors of a norm that it has no longer, in place.

    PyTorch wraps these hooks and so does not find them again. That of a parametrised weight norm is a function inside
    a function, which cannot be pickled either.
    """
    hooks: Any = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        hook = getattr(wrapped, "hook", wrapped)
        is_of_norm = isinstance(hook, SpectralNormLoadStateDictPreHook)
        if is_of_norm or getattr(hook, "__module__", None) == parametrizations.__name__:
            del hooks[key]


def _name_of(hook: Any) -> str:
    """Of the weight that a hook computes."""
    return str(hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name)


def _hooks(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
                yield module, hook


def refuse_lazy(model: nn.Module) -> None:
    """Networks some of whose layers have not seen an input yet have no weights: those of a copy would be others.

    Raises:
        ValueError: the model holds such a layer; the message names it.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"{name} has no values yet (a lazy layer): call the model on a batch first, then train or load it"
            )


def refuse_meta(model: nn.Module, remedy: str) -> None:
    """Networks on the meta device have shapes, and nothing can be loaded into them or measured of them.

    Args:
        model: to be looked at.
        remedy: what to do instead.

    Raises:
        ValueError: some tensor of it is there; the message names it.
    """
    held = chain(model.named_parameters(), model.named_buffers())
    if name := next((name for name, tensor in held if tensor.is_meta), None):
        raise ValueError(f"{name} of the model is on the meta device, which holds shapes and no values: {remedy}")


def refuse_quantised(model: nn.Module) -> None:
    """Networks that are being quantised, or are already, have no weights that could be fitted.

    Raises:
        ValueError: the model holds such a module; the message names it.
    """
    for name, module in model.named_modules():
        origin = type(module).__module__
        if origin.startswith(_QUANTISED):
            library = type(model).__module__
            twin = f" (here from {library.replace('.quantization', '')})" if ".quantization." in library else ""
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} ({origin}): networks that are quantised, or "
                f"written for it, cannot be pruned. Prune the plain network first{twin}, then quantise the small one"
            )
