"""Does one network pass?  Analyse, audit every group, prune to 70 % of the MACs, run, differentiate, save, load.

Where 70 % cannot be reached the network is cut as far as it nearly can be, and the result says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from coverage_attention import EVERYTHING, moved
from coverage_networks import Network, smallest_input
from coverage_suites import SUITES, builders
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import snp
from snp.fit.preparation import problem_of
from snp.fit.realise import realise
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.readers import readers_of
from snp.plan.costs import CostModel
from snp.pruning import decide
from snp.settings import PruneSettings
from snp.speed.network import macs
from snp.surgery.audit import audit, control, outputs, randomise
from snp.surgery.checks import SelfCheckError
from snp.surgery.subject import Subject, subject_of

__all__ = ["examine"]

TARGET_MACS = 0.7
NEARLY_ALL = 0.9  # of what can be cut, where that is less than the target asks for
SETTINGS = PruneSettings(
    target_macs=TARGET_MACS, ordering="variance", cut="uniform", calibration="joint", conv_gram="channel", streams=True
)
LARGER = (112, 224)  # where the budget cannot be met at the smallest size
LARGEST_MOVEMENT = 1e-4
# A group whose units move the output by less than this without the mask proves nothing when it passes.
SMALLEST_CONTROL = 1e-7


class WrongError(Exception):
    """The library said that this works, and it does not."""


class RefusedError(Exception):
    """The library says that this cannot be done, and why."""


class _OutOfReachError(Exception):
    """The budget cannot be met with images of this size; a larger one is tried."""


@contextmanager
def _timed(found: dict[str, Any], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        found.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 2)


def examine(network: Network) -> dict[str, Any]:
    """All that was found about a network; ``status`` is ``passed``, ``refused`` or ``wrong``."""
    found: dict[str, Any] = {"library": network.library, "family": network.family, "variant": network.name}
    try:
        if network.library in SUITES:
            _examine_built(network, found)
        else:
            _examine_at(network, 0, found)
    except RefusedError as reason:
        return found | {"status": "refused", "reason": str(reason)}
    except WrongError as reason:
        return found | {"status": "wrong", "reason": str(reason)}
    return found | {"status": "passed", "reason": ""}


def _examine_built(network: Network, found: dict[str, Any]) -> None:
    """A network that comes with inputs of its own."""
    with _timed(found, "build"):
        model, inputs = builders(network.library)[network.name]()
    found |= {"size": "", "params": sum(p.numel() for p in model.parameters())}
    _checks(randomise(model), Batch.of(inputs), found)


def _examine_at(network: Network, at_least: int, found: dict[str, Any]) -> None:
    with _timed(found, "build"):
        built = smallest_input(network, at_least)
    if built is None:
        raise RefusedError("takes none of the square images tried")
    model, size = built
    found |= {"size": size, "params": sum(p.numel() for p in model.parameters())}
    try:
        images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
        _checks(model, Batch.of(images), found, must_reach=any(s > size for s in LARGER))
    except _OutOfReachError:
        # Windows that are larger than a tiny map are padded, and attention over padding takes most of the MACs.
        _examine_at(network, next(s for s in LARGER if s > size), found)


def _checks(model: nn.Module, batch: Batch, found: dict[str, Any], must_reach: bool = False) -> None:
    with _timed(found, "analyse"):
        try:
            subject = subject_of(model, batch.first(2), SETTINGS)
        except ValueError as error:
            raise RefusedError(str(error)) from error
    streams = [group for group in subject.groups if group.is_stream]
    found |= {"groups": len(subject.groups), "streams": len(streams), "frozen": subject.frozen}
    found["prunable"] = _prunable(replace(subject, groups=tuple(g for g in subject.groups if not g.is_stream)))
    found["prunable_with_streams"] = _prunable(subject)
    found["outside"] = _outside(subject)
    if must_reach and found["prunable_with_streams"] < 1 - TARGET_MACS:
        raise _OutOfReachError
    with _timed(found, "audit"):
        _audit(subject, batch.first(2), found)
    with _timed(found, "prune"):
        _prune(subject, batch, found)
    with _timed(found, "attention"):
        _attention(model, batch.first(2), found, subject.graph.fixed_macs > 0)


def _prunable(subject: Subject) -> float:
    """Share of the MACs that goes when every group keeps one unit of each partition."""
    costs = CostModel(subject.model, subject.graph, subject.groups)
    return 1 - costs.macs([group.num_partitions for group in subject.groups]) / max(costs.macs(costs.dense), 1)


def _outside(subject: Subject) -> dict[str, float]:
    """Reason -> share of the MACs in layers that no group has a part of, and in products of activations."""
    costs = CostModel(subject.model, subject.graph, subject.groups)
    whole, touched = max(costs.macs(costs.dense), 1), {m.tensor for g in subject.groups for m in g.members}
    shares = {"products of activations, such as attention's": subject.graph.fixed_macs / whole}
    for name, (_, count) in costs.layers(costs.dense).items():
        if name not in touched:
            reason = subject.frozen.get(name, "reads an input of the network")
            shares[reason] = shares.get(reason, 0.0) + count / whole
    return shares


def _audit(subject: Subject, batch: Batch, found: dict[str, Any]) -> None:
    still, failed = 0, []
    for number, group in enumerate(subject.groups):
        if not audit(subject.model, [group], batch, seed=number) < LARGEST_MOVEMENT:
            failed.append(group.name)
        elif not control(subject.model, [group], batch, seed=number) > SMALLEST_CONTROL:
            still += 1
    found |= {"audited": len(subject.groups), "without_effect": still, "audit_failed": failed}
    if failed:
        raise WrongError(f"audit: the output moves with {', '.join(failed[:3])}")


def _attention(model: nn.Module, batch: Batch, found: dict[str, Any], has_products: bool) -> None:
    """The share inside groups with every structure asked for, and an audit of what that adds.

    Networks without products of activations have no attention, and so nothing to add.
    """
    found["prunable_with_attention"] = found["prunable_with_streams"]
    if not has_products:
        return
    subject = subject_of(model, batch, replace(SETTINGS, structures=EVERYTHING))
    groups = [group for group in subject.groups if group.kind not in ("conv", "ffn")]
    movements = [moved(subject, group, batch, seed=number) for number, group in enumerate(groups)]
    failed = [group.name for group, (still, _) in zip(groups, movements, strict=True) if not still < LARGEST_MOVEMENT]
    if failed:
        raise WrongError(f"audit: the output moves with {', '.join(failed[:3])}")
    found["prunable_with_attention"] = _prunable(subject)
    found |= {"attention_groups": len(groups), "attention_idle": sum(not m > SMALLEST_CONTROL for _, m in movements)}
    found["outside_with_attention"] = _outside(subject)


def _prune(subject: Subject, batch: Batch, found: dict[str, Any]) -> None:
    found["used_streams"] = found["prunable"] < 1 - TARGET_MACS
    if not found["used_streams"]:
        groups = tuple(group for group in subject.groups if not group.is_stream)
        subject = replace(subject, groups=groups)
    subject = replace(subject, readers=readers_of(subject.model, subject.graph, subject.groups, SETTINGS.moment_gram))
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        batch.beside(subject.model).call(subject.model)
    settings = _settings_within_reach(found)
    try:
        problem = problem_of(subject, collector.moments)
        decision = decide(subject, problem, settings)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    try:
        result = realise(subject, problem, decision.plan, settings.fit)
    except SelfCheckError as error:
        raise WrongError(f"self-check: {error}") from error
    plan = decision.plan
    found |= {"left": plan.macs["pruned"] / plan.macs["dense"], "check": result.check}
    _runs(result.model, batch)
    counted = macs(result.model, batch.first(1))
    if abs(counted - plan.macs["pruned"]) > 0.01 * counted:
        raise WrongError(f"cost: the plan says {plan.macs['pruned']:,} MACs, counted are {counted:,}")
    _comes_back(subject.model, snp.PruneResult(result.model, plan, decision.selection, result.check), batch)


def _settings_within_reach(found: dict[str, Any]) -> PruneSettings:
    """The settings of all networks, with a budget that this one can meet."""
    reach = found["prunable_with_streams" if found["used_streams"] else "prunable"]
    found["asked"] = max(TARGET_MACS, 1 - NEARLY_ALL * reach)
    return replace(SETTINGS, target_macs=found["asked"])


def _runs(small: nn.Module, batch: Batch) -> None:
    """Forward and backward, as in fine-tuning."""
    try:
        small.train()
        leaves = [leaf for leaf in pytree.tree_leaves(batch.beside(small).call(small)) if isinstance(leaf, Tensor)]
        leaves = [leaf for leaf in leaves if leaf.requires_grad]
        sum(leaf.float().square().mean() for leaf in leaves).backward()
    except RuntimeError as error:
        raise WrongError(f"training step: {error}") from error
    finally:
        small.eval()
    with_gradient = [p for p in small.parameters() if p.grad is not None]
    if not with_gradient:
        raise WrongError("training step: no parameter has a gradient")
    small.zero_grad(set_to_none=True)


def _comes_back(model: nn.Module, result: snp.PruneResult, batch: Batch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            snp.save(result, folder)
            loaded = snp.load(folder, model)
        except ValueError as error:
            raise WrongError(f"save and load: {error}") from error
        if not torch.equal(outputs(loaded, batch), outputs(result.model, batch)):
            raise WrongError("save and load: the outputs differ")
