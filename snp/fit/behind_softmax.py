"""Does the layer that gives out class logits serve their probabilities better than least squares on logits does?

What a softmax makes of a logit that is far below others is nothing, so that need not be right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from snp.core.gram import CrossMoments
from snp.core.least_squares import MomentEquations, best_of
from snp.core.softmax import Probabilities, behind_softmax
from snp.core.sums import Sums
from snp.fit.layer import LayerFit
from snp.fit.reads import own_name
from snp.fit.rows import is_held_back
from snp.fit.two_networks import TwoNetworks
from snp.measure.objective import Objective

__all__ = ["fit_probabilities", "logits_of"]

# From the nearest to the start on; none is asked for behind one that serves held-back samples less. Smaller ones are
# none: all layers in front were fitted on the samples held back, too, which ask for more than others do.
_RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01)
_USUAL_RIDGE = 1e-4  # of the least squares that others are compared with
_DOUBT = 0.25  # standard errors of the mean gain of held-back samples that are chance


def logits_of(networks: TwoNetworks, objective: Objective | None) -> fx.Node | None:
    """The node of the network's class logits [N, K]; None where others count, too, or something else does."""
    spec, outputs = networks.exported.outputs, () if objective is None else objective.outputs
    if spec is None or len(outputs) != 1 or objective is None or objective.function is not None:
        return None
    (end,) = (node for node in networks.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in end.args[0] if isinstance(leaf, fx.Node) and _is_floating(leaf)]
    if outputs[0].class_dim != 1 or outputs[0].place >= len(leaves):
        return None
    found = leaves[outputs[0].place]
    return found if found.meta["val"].ndim == 2 else None


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def fit_probabilities(fit: LayerFit) -> None:
    """Move a layer that was fitted by least squares to where its class probabilities are nearest to the dense ones.

    The ridge is the one that serves batches held back best. Where none serves them better than least squares does, by
    more than chance, nothing moves.

    Args:
        fit: of the layer that gives out the logits, which is about to be computed; it has one block.
    """
    networks, name, bias = fit.networks, fit.read.weight, own_name(fit.networks, fit.read.bias)
    if fit.reader.num_blocks > 1 or bias is None:
        return
    current, dense, kept = networks.current[fit.read.source], networks.dense_values(fit.node), fit.kept
    inputs = [fit.reader.samples(batch)[:, kept.to(batch.device)] for batch in current]
    logits = torch.cat(list(dense)).double()
    samples = Probabilities.of(torch.cat(inputs), logits)
    held = [torch.full((len(part),), is_held_back(number)) for number, part in enumerate(inputs)]
    is_held = torch.cat(held).to(samples.inputs.device)
    rows, shift = fit.reader.rows(networks.tensors[name]), networks.tensors[bias].double()
    weight = rows[:, kept.to(rows.device)].double()
    others = CrossMoments.of(samples.inputs[~is_held], logits[~is_held])
    equations = MomentEquations(weight, networks.sums.cross_moments(others), affine=True)
    equations.factor(_USUAL_RIDGE)
    ridge = _ridge(samples, is_held, equations.solution(), networks.sums)
    if ridge is None:
        return
    weight, shift = behind_softmax(samples, weight, shift, ridge, networks.sums)
    networks.change(name, fit.reader.from_rows(rows.index_copy(1, kept.to(rows.device), weight.to(rows))))
    networks.change(bias, shift)


def _ridge(samples: Probabilities, is_held: Tensor, start: tuple[Tensor, Tensor], sums: Sums) -> float | None:
    """What serves held-back samples best; None where nothing serves them better than the start beyond doubt.

    Args:
        samples: all of them.
        is_held: which are held back.
        start: least squares of the others.
        sums: over all processes.
    """
    others, held = samples[~is_held], samples[is_held]
    count = sums.number(len(held.inputs))
    if count < 2:
        return None
    before, gains = held.divergences(*start), dict[float, Tensor]()

    def loss(ridge: float) -> Tensor:
        gain = before - held.divergences(*behind_softmax(others, *start, ridge, sums))
        gains[ridge] = sums.of(torch.stack([gain.sum(), gain.square().sum()])) / count
        return -gains[ridge][0]

    ridge, _ = best_of(map(loss, _RIDGES), _RIDGES)
    mean, square = gains[ridge].tolist()
    return ridge if mean > _DOUBT * math.sqrt(max(square - mean**2, 0.0) / (count - 1)) else None
