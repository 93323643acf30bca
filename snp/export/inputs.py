"""Which inputs does an exported network take, and which does it have to be tried with?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["free_sizes", "require_batch", "require_single", "tried"]


def free_sizes(example: Tensor) -> dict[int, Any]:
    """Dimensions whose size is not fixed: that of the batch, and the length of texts."""
    return {place: torch.export.Dim.AUTO for place in range(1 if example.is_floating_point() else 2)}


def require_batch(model: nn.Module, example: Tensor) -> None:
    """Refuse an example from which a free batch size cannot be told, and a model that trains."""
    if example.ndim < 1 or len(example) < 2:
        raise ValueError(f"example must hold at least 2 samples, found shape {tuple(example.shape)}")
    if model.training:
        raise ValueError("model is in training mode: call model.eval() before the export")


def require_single(model: nn.Module, example: Tensor) -> None:
    """Refuse other precisions: ONNX Runtime has no kernels for some, and rounds otherwise in others."""
    tensors = [*model.named_parameters(), *model.named_buffers(), ("example", example)]
    found = next(((name, t.dtype) for name, t in tensors if t.is_floating_point() and t.dtype != torch.float32), None)
    if found:
        raise ValueError(
            f"{found[0]} is {str(found[1]).removeprefix('torch.')}: ONNX Runtime on the CPU runs networks in single "
            "precision, float32; convert them with model.float(), and the example with example.float()"
        )


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
