"""What does Torch-Pruning make of the same network?  Build, audit its groups, prune, run."""

from __future__ import annotations

from typing import Any

import torch
from coverage_networks import Network, smallest_input
from coverage_suites import SUITES, builders
from harness import of_extra
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.grouped_kernels import contracted, expanded
from snp.surgery.audit import outputs, randomise

__all__ = ["examine_peer"]

RATIO = 1 / 3
LARGEST_MOVEMENT = 1e-4


def examine_peer(network: Network, at_least: int = 0) -> dict[str, Any]:
    """``passed``: builds, every group passes the audit, prunes and runs; ``refused``: raises; ``wrong``: else.

    It is given a network and an input, as ours: no numbers of heads, no list of parameters without a layer.
    """
    with of_extra():
        import torch_pruning as tp

    found: dict[str, Any] = {"library": network.library, "family": network.family, "variant": network.name}
    built = _built(network, at_least)
    if built is None:
        return found | {"status": "refused", "reason": "takes none of the square images tried"}
    model, batch, size = built
    found |= {"size": size, "builds": False, "prunes": False, "runs": False}
    stage = "builds"
    try:
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=batch)
        ignored = _classifiers(model, batch)
        groups = list(graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]))
        found |= {"builds": True, "groups": len(groups)} | _audit(graph, model, groups, batch)
        stage = "prunes"
        pruner = tp.pruner.MagnitudePruner(
            model, batch, importance=tp.importance.RandomImportance(), pruning_ratio=RATIO, ignored_layers=ignored
        )
        pruner.step()
        found["prunes"] = True
        stage = "runs"
        outputs(model, batch)
        found["runs"] = True
    except Exception as error:  # whatever it raises is its result
        text = str(error).strip().splitlines()
        return found | {"status": "refused", "reason": f"{stage}: {type(error).__name__}: {text[0] if text else ''}"}
    unaudited = f", {found['unaudited']} could not be audited" if found["unaudited"] else ""
    if found["audit_failed"]:
        reason = f"{len(found['audit_failed'])} of {len(groups)} groups fail the audit{unaudited}"
        return found | {"status": "wrong", "reason": reason}
    return found | {"status": "passed", "reason": f"{len(groups)} groups{unaudited}"}


def _built(network: Network, at_least: int) -> tuple[nn.Module, Any, Any] | None:
    """The network with values everywhere, two samples in the form that it takes, and the size of images."""
    if network.library in SUITES:
        model, inputs = builders(network.library)[network.name]()
        batch = Batch.of(inputs).first(2)
        if hasattr(getattr(model, "config", None), "use_cache"):
            model.config.use_cache = False  # it does not take a cache for an output
        return randomise(model), batch.kwargs or (batch.args[0] if len(batch.args) == 1 else batch.args), ""
    built = smallest_input(network, at_least)
    if built is None:
        return None
    return built[0], torch.randn(2, 3, built[1], built[1], generator=torch.Generator().manual_seed(0)), built[1]


def _audit(graph: Any, model: nn.Module, groups: list[Any], batch: Any) -> dict[str, Any]:
    """Names of groups with which the output moves, and how many could not be cut into parts at all."""
    failed, unaudited = [], 0
    for group in groups:
        try:
            if not _moves_not(graph, model, group, batch):
                failed.append(str(group[0].dep.target.name))
        except Exception:  # its own code on a part of its own group, or indices that a layer does not have
            unaudited += 1
    return {"audit_failed": failed, "unaudited": unaudited}


def _classifiers(model: nn.Module, batch: Any) -> list[nn.Module]:
    """Layers as wide as an output of the network."""
    with torch.no_grad():
        found = pytree.tree_leaves(Batch.of(batch).call(model))
    shapes = [leaf.shape for leaf in found if isinstance(leaf, Tensor) and leaf.ndim > 1]
    # Classes lie behind tokens, and before space.
    widths = {size for shape in shapes for size in (shape[1:] if len(shape) == 3 else shape[1:2])}
    return [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) in widths]


def _moves_not(graph: Any, model: nn.Module, group: Any, batch: Any) -> bool:
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
    index, blocks = torch.as_tensor(list(idxs)), getattr(module, "groups", 1) if dim == 1 else 1
    with torch.no_grad():
        # Columns of a grouped convolution are counted over all its inputs.
        whole = expanded(tensor, blocks)
        part = whole.index_select(dim, index)
        noise = torch.zeros_like(part) if generator is None else torch.rand(part.shape, generator=generator)
        tensor.copy_(contracted(whole.index_copy(dim, index, noise.to(part.dtype)), blocks))
