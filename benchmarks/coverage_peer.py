"""What does Torch-Pruning make of the same network?  Build, audit its groups, prune, run."""

from __future__ import annotations

from typing import Any

import torch
from coverage_networks import Network, smallest_input
from torch import Tensor, nn

from snp.audit import outputs

__all__ = ["examine_peer"]

RATIO = 1 / 3
LARGEST_MOVEMENT = 1e-4


def examine_peer(network: Network) -> dict[str, Any]:
    """``passed``: builds, every group passes the audit, prunes and runs; ``refused``: raises; ``wrong``: else."""
    import torch_pruning as tp

    found: dict[str, Any] = {"library": network.library, "family": network.family, "variant": network.name}
    built = smallest_input(network)
    if built is None:
        return found | {"status": "refused", "reason": "takes none of the square images tried"}
    model, size = built
    batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    stage = "builds"
    try:
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=batch)
        ignored = _classifiers(model, batch)
        stage = "audit"
        groups = list(graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]))
        failed = [group[0].dep.target.name for group in groups if not _moves_not(graph, model, group, batch)]
        found |= {"groups": len(groups), "audit_failed": failed}
        stage = "prunes"
        pruner = tp.pruner.MagnitudePruner(
            model, batch, importance=tp.importance.RandomImportance(), pruning_ratio=RATIO, ignored_layers=ignored
        )
        pruner.step()
        stage = "runs"
        outputs(model, batch)
    except Exception as error:  # whatever it raises is its result
        text = str(error).strip().splitlines()
        return found | {"status": "refused", "reason": f"{stage}: {type(error).__name__}: {text[0] if text else ''}"}
    if failed:
        return found | {"status": "wrong", "reason": f"audit: {len(failed)} of {len(groups)} groups"}
    return found | {"status": "passed", "reason": f"{len(groups)} groups"}


def _classifiers(model: nn.Module, batch: Tensor) -> list[nn.Module]:
    """Layers as wide as the network's output."""
    with torch.no_grad():
        width = outputs(model, batch).numel() // len(batch)
    return [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) == width]


def _moves_not(graph: Any, model: nn.Module, group: Any, batch: Tensor) -> bool:
    """Readers' columns of a third of the channels zero, their producers' rows at random: does the output stay?"""
    root = group[0].dep
    size = len(group[0].idxs)
    chosen = sorted(torch.randperm(size, generator=torch.Generator().manual_seed(0))[: max(1, size // 3)].tolist())
    part = graph.get_pruning_group(root.target.module, root.handler, idxs=chosen)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        for dep, idxs in part:
            if "in_channels" in dep.handler.__name__ and not _is_depthwise(dep.target.module):
                _change(dep.target.module, "weight", 1, idxs, None)
        before, generator = outputs(model, batch), torch.Generator().manual_seed(1)
        for dep, idxs in part:
            module = dep.target.module
            if "out_channels" in dep.handler.__name__ and isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                for leaf in ("weight", "bias"):
                    _change(module, leaf, 0, idxs, generator)
        after = outputs(model, batch)
    finally:
        model.load_state_dict(saved)
    return bool((after - before).abs().max() <= LARGEST_MOVEMENT * before.abs().max())


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _change(module: nn.Module, leaf: str, dim: int, idxs: Any, generator: torch.Generator | None) -> None:
    tensor = getattr(module, leaf, None)
    if tensor is None:
        return
    index = torch.as_tensor(list(idxs))
    with torch.no_grad():
        part = tensor.index_select(dim, index)
        noise = torch.zeros_like(part) if generator is None else torch.rand(part.shape, generator=generator)
        tensor.index_copy_(dim, index, noise.to(part.dtype))
