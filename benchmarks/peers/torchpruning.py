"""What does Torch-Pruning give at the same MACs?  Its group importances, its dependency graph, its own surgery.

Its Taylor and Hessian importances need labels: they get those of the calibration images. The Hessian's squared
gradients are summed here, sample by sample, because ``accumulate_grad`` of 1.6.1 keeps those of the last sample only
(it looks names up among parameters).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
import torch_pruning as tp
from harness import Batches
from torch import Tensor, nn

from snp.graph import analyse
from snp.graph.units import module_of
from snp.speed.network import macs

__all__ = ["CRITERIA", "NUM_TRIED", "SCOPES", "gradients_for", "ignored_layers", "prune_to_share"]

CRITERIA: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": tp.importance.GroupTaylorImportance,
    "hessian": tp.importance.GroupHessianImportance,
}
# "own": whatever its graph allows, all but the classifier; "inside": the units that snp cuts by default.
SCOPES = ("own", "inside")

NUM_TRIED = 6  # prunings on the way to a share
_LARGEST_RATIO = 0.999
_SAMPLES_OF_HESSIAN = 128


def gradients_for(model: nn.Module, criterion: str, batches: Batches) -> dict[str, Tensor]:
    """What a criterion looks at beside weights: nothing, mean gradients, or mean squares of single samples'."""
    if criterion == "taylor":
        parts = batches
    elif criterion == "hessian":
        images = torch.cat([images for images, _ in batches])[:_SAMPLES_OF_HESSIAN]
        labels = torch.cat([labels for _, labels in batches])[:_SAMPLES_OF_HESSIAN]
        parts = list(zip(images.split(1), labels.split(1), strict=True))
    else:
        return {}
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for images, labels in parts:
        loss = F.cross_entropy(model(images), labels)
        found = torch.autograd.grad(loss, list(model.parameters()))
        for name, gradient in zip(total, found, strict=True):
            total[name] += gradient.square() if criterion == "hessian" else gradient
    return {name: value / len(parts) for name, value in total.items()}


def ignored_layers(model: nn.Module, example: Tensor, scope: str) -> list[str]:
    """Names of the convolutions and linear layers whose outputs it must leave alone."""
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    if scope == "own":
        return layers[-1:]
    groups = [group for group in analyse(model, example).groups if not group.is_stream]
    inside = {module_of(member.tensor) for group in groups for member in group.producers + group.others}
    return [name for name in layers if name not in inside]


def prune_to_share(
    model: nn.Module,
    example: Tensor,
    criterion: str,
    ignored: Sequence[str],
    gradients: Mapping[str, Tensor],
    share: float,
) -> nn.Module:
    """The largest network that it makes with at most that share of the MACs, one global ratio sought.

    Args:
        model: in evaluation mode; not changed.
        example: one image [1, 3, H, W].
        criterion: of :data:`CRITERIA`.
        ignored: from :func:`ignored_layers`.
        gradients: from :func:`gradients_for`.
        share: of the dense network's multiply-accumulates.

    Raises:
        ValueError: no ratio gets there.
    """
    dense, best = macs(model, example), None
    below, above = (0.0, 1.0), (_LARGEST_RATIO, 0.0)  # ratios and the shares that they leave
    for step in range(NUM_TRIED):
        # By interpolation, and in the middle every third time, where shares do not fall evenly.
        slope = 0.5 if step % 3 == 2 else (below[1] - 0.995 * share) / (below[1] - above[1])
        ratio = below[0] + min(0.95, max(0.05, slope)) * (above[0] - below[0])
        small = _pruned(model, example, criterion, ignored, gradients, ratio)
        left = macs(small, example) / dense
        if left <= share:
            best, above = small, (ratio, left)
        else:
            below = ratio, left
    if best is None:
        raise ValueError(f"no ratio tried leaves {share:g} of the MACs with {len(ignored)} layers ignored")
    return best


def _pruned(
    model: nn.Module,
    example: Tensor,
    criterion: str,
    ignored: Sequence[str],
    gradients: Mapping[str, Tensor],
    ratio: float,
) -> nn.Module:
    small = copy.deepcopy(model)
    for name, gradient in gradients.items():
        small.get_parameter(name).grad = gradient.clone()
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=CRITERIA[criterion](),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[small.get_submodule(name) for name in ignored],
    )
    pruner.step()
    small.zero_grad(set_to_none=True)
    return small.eval()
