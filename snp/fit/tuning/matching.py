"""How far is a pruned network from the dense one, in a form that gradients go through?"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.measure.distillation import distillation_loss
from snp.measure.objective import Objective, Output, floating

__all__ = ["distance", "feature_error", "learnable", "output_error"]

# Softened predictions also say which wrong classes the dense network holds for likely (Hinton et al. 2015).
_TEMPERATURE = 2.0


def learnable(objective: Objective, output: Any) -> Objective:
    """The objective, without its own function where no gradient goes through that: outputs then count by their kind.

    Args:
        objective: that decides what is kept.
        output: of the dense network.
    """
    if objective.function is None:
        return objective
    varied = pytree.tree_map_only(Tensor, lambda t: t.detach().requires_grad_() if t.is_floating_point() else t, output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of tensors with gradients that become numbers
        found = objective.said(output, varied)
    has_gradient = isinstance(found, Tensor) and found.requires_grad
    return objective if has_gradient else replace(objective, function=None)


def distance(
    objective: Objective, dense: tuple[Any, Tensor | None], small: tuple[Any, Tensor | None], batch: Batch
) -> Tensor:
    """Error of the outputs and, where both networks have them, of the features; a scalar.

    Args:
        objective: from :func:`learnable`.
        dense: output and features of the dense network.
        small: of the pruned network.
        batch: their inputs.
    """
    error = output_error(objective, dense[0], small[0], batch)
    if dense[1] is None or small[1] is None:
        return error
    return error + feature_error(dense[1], small[1], batch)


def output_error(objective: Objective, dense: Any, small: Any, batch: Batch) -> Tensor:
    """Softened divergence of class logits, squared error beside the spread of other outputs; a scalar.

    Args:
        objective: which outputs count, and how; from :func:`learnable`.
        dense: the dense network's output.
        small: the pruned network's.
        batch: their inputs, which say what is padding.
    """
    if objective.function is not None:
        found: Tensor = objective.said(dense, small)
        return found
    wanted, given = floating(dense), floating(small)
    parts = [_of(output, wanted[output.place], given[output.place], batch) for output in objective.outputs]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _of(output: Output, dense: Tensor, small: Tensor, batch: Batch) -> Tensor:
    if output.class_dim is None:
        return output.distance(dense, small, batch) / batch.size
    found, wanted = (_rows(logits.movedim(output.class_dim, -1), batch).float() for logits in (small, dense))
    # As it is, beside the error of the features: no labels are there whose gradient it had to be as large as.
    return distillation_loss(found, wanted.detach(), _TEMPERATURE) / _TEMPERATURE**2


def feature_error(dense: Tensor, small: Tensor, batch: Batch) -> Tensor:
    """Squared error relative to the dense network's features, a scalar; 1 is as bad as features of zero.

    Args:
        dense: features, samples first, of maps [N, C, ...] or tokens [N, T, C].
        small: the pruned network's, same shape.
        batch: their inputs, which say what is padding.
    """
    found, wanted = (_rows(features, batch).float() for features in (small, dense.detach()))
    # Features of zero have no scale; single precision then has none to lose either.
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def _rows(values: Tensor, batch: Batch) -> Tensor:
    """Rows [.., C] of tokens that are no padding; all of them elsewhere."""
    flat = values.reshape(-1, values.shape[-1])
    counted = batch.counted(values.shape[:-1])
    return flat if counted is None else flat[counted.to(flat.device)]
