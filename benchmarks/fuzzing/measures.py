"""What is a network to one who only looks at it?  A hash of its state, outputs, distances, multiply-accumulates."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from fuzzing.dense_again import tensors_of


class WrongError(Exception):
    """A law does not hold."""


def hold(law: str, holds: bool, found: str = "") -> None:
    """Say which law does not hold.

    Raises:
        WrongError: it does not.
    """
    if not holds:
        raise WrongError(f"{law}{': ' if found else ''}{found}")


def state(model: nn.Module) -> str:
    """A hash of tensors, gradients and every plain attribute."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(name.encode() + tensor.numpy().tobytes() + str(tensor.dtype).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.requires_grad} {parameter.grad is None}".encode())
    for name, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, bool, tuple, list))}
        digest.update(f"{name} {type(module).__name__} {sorted(plain.items())}".encode())
        digest.update(str([len(hooks) for key, hooks in vars(module).items() if key.endswith("hooks")]).encode())
    return digest.hexdigest()


def leaves(output: Any) -> list[Tensor]:
    """Tensors of an output, whatever it is."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Tensors that come out in evaluation mode."""
    mode = model.training
    with torch.no_grad():
        found = leaves(model.eval()(batch))
    model.train(mode)
    return found


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Equal to the bit."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def same_state(first: nn.Module, second: nn.Module) -> bool:
    """The same tensors under the same names, to the bit."""
    one, other = tensors_of(first), tensors_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def double(batch: Tensor) -> Tensor:
    """The same in float64; tokens stay tokens."""
    return batch.double() if batch.is_floating_point() else batch


def distance(wanted: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference of any channel relative to its spread, or to its rounding where it does not move."""
    hold("number of outputs", len(wanted) == len(found))
    worst = 0.0
    for want, have in zip(wanted, found, strict=True):
        hold("output shape", want.shape == have.shape, f"{tuple(want.shape)} became {tuple(have.shape)}")
        hold("finite outputs", bool(torch.isfinite(have).all()))
        for dim in {1, want.ndim - 1} - {0}:
            a, b = (t.double().movedim(dim, 0).flatten(1) for t in (want, have))
            scale = a.std(dim=1) + 1e-4 * a.abs().amax(dim=1) + 1e-8
            worst = max(worst, float(((a - b).abs().amax(dim=1) / scale).max()))
    return worst


def macs(model: nn.Module, batch: Tensor) -> int:
    """Multiply-accumulates of one sample by torch's counter."""
    plain = copy.deepcopy(model).requires_grad_(False).eval()
    fast, fused = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # recurrent layers become the products that they are made of
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            plain(batch[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(fused)
    return int(counter.get_total_flops()) // 2
