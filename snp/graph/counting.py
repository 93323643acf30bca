"""How many multiply-accumulates does an operator, or a network, take?  Counted as the operators run, on any values.

The counter of PyTorch sees matrix products and convolutions as they come to the kernels. What hides from it, fused
attention and recurrent layers on CPUs, is made to run in parts; a few further operators are counted here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from snp.graph.batches import Batch
from snp.graph.wrappers import at_rest

__all__ = ["macs_of_batch", "macs_of_operator"]


def macs_of_operator(node: fx.Node) -> int:
    """Multiply-accumulates of one node of an exported graph; nothing is computed but shapes."""
    values: Any = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta.get("val"))
    args, kwargs = values
    if not isinstance(node.target, torch._ops.OpOverload):
        return 0
    fake = next((v.fake_mode for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, FakeTensor)), None)
    if fake is None:
        return 0
    with fake, _counted() as counter:
        node.target(*args, **kwargs)
    return int(counter.get_total_flops()) // 2


def macs_of_batch(model: nn.Module, batch: Batch) -> int:
    """Multiply-accumulates per sample of a network in evaluation mode, counted while it runs on a batch."""
    assert not model.training, "a network is counted as it is evaluated"
    # Without gradients: the counter's hooks fail on views that some networks hand to their layers.
    with at_rest(model), torch.no_grad(), _counted() as counter:
        batch.call(model)
    return int(counter.get_total_flops()) // (2 * batch.size)


@contextmanager
def _counted() -> Iterator[FlopCounterMode]:
    """A counter, with every product in sight of it."""
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        # Not torch.backends.mkldnn.flags: it warns of an accelerator that is not there.
        stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
        torch._C._set_mkldnn_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield stack.enter_context(FlopCounterMode(display=False, custom_mapping=_further_operators()))


def _further_operators() -> dict[Any, Any]:
    """Operator -> floating-point operations from shapes, for products that the counter does not know."""
    aten = torch.ops.aten
    found: dict[Any, Any] = {
        aten.mv: lambda matrix, vector, **_: 2 * math.prod(matrix),
        aten.addmv: lambda summand, matrix, vector, **_: 2 * math.prod(matrix),
        aten.dot: lambda left, right, **_: 2 * math.prod(left),
        aten._trilinear: _trilinear,
        aten._grouped_mm: _of_experts,
        aten.linalg_solve_triangular: _solved,
    }
    with suppress(AttributeError):  # transformers is not there, or has no experts
        found[torch.ops.transformers.grouped_mm_fallback] = _of_experts
    with suppress(AttributeError):  # torchvision is not installed
        found[torch.ops.torchvision.deform_conv2d] = _deformed
    return found


def _trilinear(first: Any, second: Any, third: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of nn.Bilinear: every combination of two features and an output is one product with the weight."""
    return 2 * _product([first[-1], third[-1], *out_shape])


def _solved(matrix: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of triangular systems, as the product with the inverse, which some networks write while they are exported."""
    return 2 * _product([*out_shape, matrix[-1]])


def _of_experts(tokens: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Every token times the matrix of its expert."""
    return 2 * _product([*tokens, weight[-1]])


def _deformed(inputs: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * _product([*out_shape, *weight[1:]])


def _product(sizes: list[int]) -> int:
    return math.prod(sizes)
