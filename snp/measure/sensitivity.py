"""How much does the network's output move with an error at each layer's output?

The Fisher matrix of the layer's outputs: with labels drawn from the network's own prediction, the mean outer product
of the gradients of the log-likelihood, summed over positions. Half of e^T F e is the change of the prediction, in
Kullback-Leibler divergence (or squared error beside the spread, see :mod:`snp.measure.objective`), that a small error
e at one position causes. One backward pass over a few batches serves all layers and all cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snp.core.sums import ALONE, Sums
from snp.graph.batches import Batch
from snp.graph.wrappers import at_rest
from snp.measure.objective import Objective
from snp.measure.outputs import objective_of
from snp.measure.readers import Reader
from snp.measure.taps import Taps
from snp.measure.visiting import STAYS, Visits

__all__ = ["measure_sensitivity"]


def measure_sensitivity(
    model: nn.Module,
    batches: Sequence[Batch],
    readers: Mapping[str, Reader],
    generator: torch.Generator,
    over: Sums = ALONE,
    objective: Objective | None = None,
    visits: Visits = STAYS,
) -> dict[str, Tensor]:
    """Fisher matrix of the outputs of every reader.

    Args:
        model: in evaluation mode.
        batches: inputs on the model's device, no labels.
        readers: the layers to look at.
        generator: draws the labels, on the CPU.
        over: sums over all processes.
        objective: what its outputs are asked for; by default what they look like.
        visits: where blocks visit a device, sums are in main memory.

    Returns:
        Weight name -> shape [O, O], float64, per sample, where the model lies; nothing for recurrent layers, whose
        outputs are not those of the weight.

    Raises:
        ValueError: gradients are not finite, in a layer that is named, or the network overwrites what they need.
    """
    followed = {name: reader for name, reader in readers.items() if not reader.is_recurrent}
    if not followed:
        return {}
    sums, objective = dict[str, Tensor](), objective or objective_of(model, batches)
    taps = Taps(model, followed, after=lambda name, output: _tracked(name, readers[name], output, sums, visits))
    # Gradients of weights, which nobody asks for, would cost half of the backward pass.
    with at_rest(model), taps, torch.enable_grad(), _GradientsEverywhere(), _backward_through_recurrent(model):
        for batch in batches:
            _backward(objective.score(batch.call(model), batch, generator))
    _refuse_not_finite(sums, readers)
    count = over.number(sum(batch.size for batch in batches))
    return {name: over.of(total) / count for name, total in sums.items()}


class _GradientsEverywhere(TorchFunctionMode):
    """The network's own ``torch.no_grad()`` switches nothing off: what is cut there moves the output, too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))


def _backward(score: Tensor) -> None:
    try:
        score.backward()
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise ValueError(
            "the network overwrites values that gradients are made of (x += ... behind a norm of x): write x = x + "
            "..., or choose units without gradients by prune.ordering='zca' with prune.cut='variance'"
        ) from error


def _refuse_not_finite(sums: Mapping[str, Tensor], readers: Mapping[str, Reader]) -> None:
    sound = {name: torch.isfinite(total.diagonal()).all() for name, total in sums.items()}
    if sound and not bool(torch.stack([*sound.values()]).all()):  # a device is waited for once
        broken = next(name for name, is_sound in sound.items() if not bool(is_sound))
        raise ValueError(
            f"gradients at the outputs of layer {readers[broken].module} hold NaN or infinite values: units can be "
            "chosen without them by prune.ordering='zca' with prune.cut='variance'"
        )


def _backward_through_recurrent(model: nn.Module) -> AbstractContextManager[None]:
    """CuDNN computes no gradients of recurrent layers in evaluation mode."""
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def _tracked(name: str, reader: Reader, output: Tensor, sums: dict[str, Tensor], visits: Visits) -> Tensor:
    """A layer's outputs, whose gradients are summed up as soon as they are known."""

    def add(gradient: Tensor) -> None:
        rows = gradient.movedim(reader.output_dim, -1).reshape(-1, gradient.shape[reader.output_dim]).float()
        product = visits.at_rest(rows.T @ rows)
        sums[name] = sums[name].add_(product) if name in sums else product.double()

    # A network without trainable parameters still passes gradients on from here.
    tracked = output if output.requires_grad else output.detach().requires_grad_()
    tracked.register_hook(add)
    # What follows may write over its input, which a leaf does not allow.
    return tracked.clone() if tracked.is_leaf else tracked
