"""Which inputs does an exported network take, and which does it have to be tried with?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["free_sizes", "refused_in_double", "require_batch", "require_single", "tried"]

_SINGLE = (
    "ONNX Runtime on the CPU runs networks in single precision, float32, and few others; convert them with "
    "model.float(), and the example with example.float()"
)


def free_sizes(example: Tensor) -> dict[int, Any]:
    """Dimensions whose size is not fixed: that of the batch, and the length of texts."""
    return {place: torch.export.Dim.AUTO for place in range(1 if example.is_floating_point() else 2)}


def require_batch(model: nn.Module, example: Tensor) -> None:
    """Refuse an example from which a free batch size cannot be told, and a model that trains."""
    if example.ndim < 1 or len(example) < 2:
        raise ValueError(f"example must hold at least 2 samples, found shape {tuple(example.shape)}")
    if model.training:
        raise ValueError("model is in training mode: call model.eval() before the export")


def require_single(model: nn.Module, example: Tensor) -> bool:
    """Refuse precisions that ONNX Runtime has few kernels for, and rounds in otherwise.

    Returns:
        Is it double precision, for which there are many, but not all?
    """
    tensors = [*model.named_parameters(), *model.named_buffers(), ("example", example)]
    found = {t.dtype: name for name, t in reversed(tensors) if t.is_floating_point()}
    if set(found) == {torch.float64}:
        return True
    others = [dtype for dtype in reversed(found) if dtype != torch.float32]
    if others:
        dtype = others[0]
        raise ValueError(f"{found[dtype]} is {str(dtype).removeprefix('torch.')}: {_SINGLE}")
    return False


def refused_in_double(error: ValueError) -> ValueError:
    """The same refusal of a network in double precision, with what helps."""
    return ValueError(f"{error}. The network is in double precision, float64: {_SINGLE}")


def tried(model: nn.Module, example: Tensor, program: torch.export.ExportedProgram) -> list[Tensor]:
    """The example, a smaller batch, and shorter texts where the program takes them.

    Raises:
        ValueError: the program takes batches of one size only.
    """
    (read,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    # A number belongs to an architecture that holds for that size only.
    sizes = [getattr(getattr(size, "node", None), "expr", size) for size in read.meta["val"].shape]
    bounds = [program.range_constraints.get(size) for size in sizes]
    if str(sizes[0]).isdigit():
        raise ValueError(
            f"{type(model).__name__} takes batches of {len(example)} only: its code must not say the size of a "
            "batch as a number; write x.shape[0]"
        )
    batches = [example, example[:1]]
    if not example.is_floating_point() and bounds[1] is not None:
        # The shortest text of all may be a case of its own, as one with a single output.
        batches.append(example[:, : max(example.shape[1] // 2, int(bounds[1].lower) + 1)])
    return batches
