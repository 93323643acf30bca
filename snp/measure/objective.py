"""How far is a network's output from the dense network's?  Divergence of class logits, squared error of all else.

A squared error is half of its mean over an output's values, each relative to the spread of its channel. That is the
divergence of two normal distributions of that spread, so that both kinds are in nats per sample, and every output
counts, whatever its scale and size. Values that stand for "never" (:func:`is_masked`) say nothing of either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.nests import placed
from snp.measure.distillation import divergence
from snp.measure.spread import is_masked, without_padding

__all__ = [
    "Objective",
    "Output",
    "divergence",
    "floating",
    "is_masked",
    "named_outputs",
    "nothing_real",
    "without_padding",
]


@dataclass(frozen=True, eq=False)
class Output:
    """One floating tensor of the network's output.

    Attributes:
        name: its place in the output.
        place: among the floating tensors.
        class_dim: dimension of the classes of logits; None for a squared error.
        channel_dim: dimension of channels; None where there is one value per sample.
        variance: of every channel over samples and positions, shape [channels] or [1], float64.
    """

    name: str
    place: int
    class_dim: int | None
    channel_dim: int | None
    variance: Tensor

    def __str__(self) -> str:
        if self.class_dim is not None:
            return f"divergence of {self.name} over dimension {self.class_dim}"
        return f"squared error of {self.name} beside its spread"

    def distance(self, dense: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """In nats, summed over samples of the batch that both come from, without its padding; a scalar."""
        dense, other = (without_padding(values, batch).float() for values in (dense.detach(), other))
        masked = is_masked(dense)
        if self.class_dim is not None:
            return divergence(dense.log_softmax(self.class_dim), other.log_softmax(self.class_dim), masked)
        error = (other - dense).square() / self._along(dense)
        return error.masked_fill(masked, 0.0).sum() * batch.size / (2 * (~masked).sum().clamp(min=1))

    def score(self, output: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """Log-likelihood of a draw from the network's own prediction, whose gradients make the Fisher matrix."""
        output = without_padding(output, batch)
        if self.class_dim is not None:
            flat = output.movedim(self.class_dim, -1)
            flat = flat.reshape(-1, flat.shape[-1]).float()
            labels = torch.multinomial(flat.detach().softmax(dim=-1).cpu(), 1, generator=generator)[:, 0]
            return F.cross_entropy(flat, labels.to(flat.device), reduction="sum")
        noise = torch.randn(output.shape, generator=generator).to(output.device)
        masked = is_masked(output)
        per_sample = ((~masked).sum() / batch.size).clamp(min=1.0)
        return (output.float() * noise / (self._along(output) * per_sample).sqrt()).masked_fill(masked, 0.0).sum()

    def _along(self, values: Tensor) -> Tensor:
        """The variance, to go with an output's values."""
        shape = [1] * values.ndim
        if self.channel_dim is not None and values.shape[self.channel_dim] == len(self.variance):
            shape[self.channel_dim] = -1
        elif len(self.variance) > 1:
            return self.variance.mean().to(values.device, torch.float32)
        return self.variance.reshape(shape).to(values.device, torch.float32)


@dataclass(frozen=True, eq=False)
class Objective:
    """What is asked of the network's outputs.

    Attributes:
        outputs: that count.
        function: (dense network's output, other network's output) -> how far they are apart, a scalar, mean over
            samples; instead of the outputs' own distances, None without one.
    """

    outputs: tuple[Output, ...]
    function: Callable[[Any, Any], Any] | None = None

    def __str__(self) -> str:
        if self.function is not None:
            return getattr(self.function, "__name__", type(self.function).__name__)
        return "; ".join(map(str, self.outputs))

    def distance(self, dense: Any, other: Any, batch: Batch) -> float:
        """How far an output is from the dense network's, in nats, summed over samples of the batch they come from.

        Raises:
            ValueError: the outputs have other shapes, or the distance is not finite.
        """
        if self.function is not None:
            found = float(self.said(dense, other)) * batch.size
        else:
            wanted, given = floating(dense), floating(other)
            for output in self.outputs:
                before, after = (_shape(leaves, output.place) for leaves in (wanted, given))
                if before != after:
                    raise ValueError(
                        f"the shape of {output.name} depends on its values: {before} in the dense network, {after} "
                        "with units cut. Prune the network without what selects among its outputs, or give prune a "
                        "function of both outputs (objective=...)"
                    )
            parts = (o.distance(wanted[o.place], given[o.place], batch) for o in self.outputs)
            found = sum(float(part) for part in parts)
        if not math.isfinite(found):
            where = f"prune.objective ({self})" if self.function is not None else f"the objective ({self})"
            raise ValueError(f"{where} is not finite: it gave {found} for outputs of the pruned network")
        return found

    def said(self, dense: Any, other: Any) -> Any:
        """What the user's function gives for two outputs, over which it may write: a number.

        Raises:
            TypeError: several numbers.
        """
        assert self.function is not None
        found = self.function(*pytree.tree_map_only(Tensor, Tensor.clone, (dense, other)))
        if isinstance(found, Tensor) and found.numel() != 1:
            raise TypeError(
                f"prune.objective ({self}) gave {found.numel()} numbers, shape {list(found.shape)}: let it give one, "
                "the mean over the samples"
            )
        return found

    def score(self, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        """A scalar whose gradients make the Fisher matrix.

        Raises:
            ValueError: gradients do not reach any output.
        """
        leaves = floating(output)
        scores = [o.score(leaves[o.place], batch, generator) for o in self.outputs if o.place < len(leaves)]
        reached = [score for score in scores if score.requires_grad]
        if not reached:
            raise ValueError(
                "no gradient reaches the network's outputs, so nothing is known of how far they move: its evaluation "
                "switches gradients off or selects among candidates. Prune the network without that part, or ask for "
                "an order and a cut that need none (prune.ordering=zca prune.cut=variance)"
            )
        return torch.stack(reached).sum()


def named_outputs(output: Any) -> list[tuple[str, Tensor]]:
    """Floating tensors of an output and where they are in it."""
    floating = [
        (place, leaf) for place, leaf in placed(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    return [(f"output{place}" if place else "the output", leaf) for place, leaf in floating]


def _shape(leaves: Sequence[Tensor], place: int) -> tuple[int, ...] | None:
    return tuple(leaves[place].shape) if place < len(leaves) else None


def floating(output: Any) -> list[Tensor]:
    """Floating tensors of an output."""
    return [leaf for _, leaf in named_outputs(output)]


def nothing_real(output: Any) -> str:
    """What is wrong with a network's output that holds no floating tensor."""
    tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    kinds = dict.fromkeys(f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}" for leaf in tensors)
    found = " and ".join(kinds) or f"no tensor in a {type(output).__name__}"
    return (
        f"a cut is judged by the real numbers that the model gives out, and there are none: it gives {found}. Let it "
        "give real ones (torch.view_as_real of complex ones; what whole ones are found from), or take "
        "prune.preset=paper, which looks at no output"
    )
