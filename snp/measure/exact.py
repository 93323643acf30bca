"""How are sums over samples exact, whatever precision the caller allows elsewhere?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["exact_products", "plain_arithmetic", "torch_attention"]


@contextmanager
def exact_products() -> Iterator[None]:
    """Single precision is single precision here: no autocast, no TF32; both are as before afterwards."""
    with ExitStack() as stack:
        stack.enter_context(_without_tf32())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer name, and PyTorch refuses to mix the two
        before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Also outside of ``torch.inference_mode``, whose tensors have no gradients, which sensitivity is measured by.

    Layers of ``nn.TransformerEncoder`` are called one by one: the fused ones are not seen by whoever looks at what
    layers read, and get padded samples as nested tensors, which have no shape.
    """
    with exact_products(), torch_attention(is_fused=False), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def torch_attention(*, is_fused: bool) -> Iterator[None]:
    """Does ``nn.TransformerEncoder`` run fused layers where it can?  Behind the ``with`` block it does as before."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(is_fused)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
