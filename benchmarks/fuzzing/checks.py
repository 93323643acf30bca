"""Is one pruned network right?  Laws that every prune keeps, tried on one network by means of their own."""

from __future__ import annotations

import copy
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import snp
from fuzzing.asked import options, options_of_copies
from fuzzing.copies import found_copies
from fuzzing.dense_again import Plan, masked_dense, owned, plain_dense, put_back, tensors_of
from fuzzing.draw import Draw
from fuzzing.measures import WrongError, distance, double, hold, leaves, macs, outputs, same, same_state, state
from fuzzing.networks import Sample, network

__all__ = [
    "Outcome",
    "WrongError",
    "counts",
    "equals_masked_dense",
    "examine",
    "found_copies",
    "keeps_values",
    "network",
    "owned",
    "state",
]


@dataclass(frozen=True)
class Outcome:
    """What came of one network.

    Attributes:
        status: ``right``, ``refused`` (with a clear message) or ``wrong``.
        reason: in words; empty where all is right.
        cut: units that went.
        words: the network and what was asked.
    """

    status: str
    reason: str
    cut: int
    words: str


def examine(seed: int) -> Outcome:
    """Build the network of a seed, prune it as the seed says, and check the result."""
    sample = network(seed)
    draw = Draw(random.Random(seed + 1_000_003))
    asked = options_of_copies(draw) if sample.planted else options(draw)
    words = f"{sample.words} | {' '.join(f'{k}={v}' for k, v in asked.items())}"
    try:
        cut = _examine(seed, sample, asked, draw)
    except Refused as refusal:
        return Outcome("refused", str(refusal), 0, words)
    except WrongError as error:
        return Outcome("wrong", str(error), 0, words)
    except Exception as error:  # a network that does not run, a plan that does not load: all of it is wrong
        return Outcome("wrong", f"{type(error).__name__}: {str(error)[:300]}", 0, words)
    return Outcome("right", "", cut, words)


class Refused(Exception):  # noqa: N818
    """The package says in a sentence why it does not do it."""


def _examine(seed: int, sample: Sample, asked: dict[str, Any], draw: Draw) -> int:
    before, first = state(sample.model), outputs(sample.model, sample.unseen)
    result, asked = _prune_anyhow(sample, asked)
    hold("dense network untouched", state(sample.model) == before)
    hold("dense outputs untouched", same(first, outputs(sample.model, sample.unseen)))
    dense = plain_dense(seed, structures=asked.get("structures", ()))
    _comes_back_as_it_was(sample.model, result.model)
    with tempfile.TemporaryDirectory() as folder:
        snp.save(result, folder)
        plan = Plan(Path(folder) / "plan.json")
        loaded = snp.load(folder, model=sample.model)
    hold("loads to the bit", same_state(result.model, loaded))
    hold("loaded outputs", same(outputs(result.model, sample.unseen), outputs(loaded, sample.unseen)))
    equals_masked_dense(dense, result.model, plan, sample)
    keeps_values(dense, result.model, plan, asked)
    counts(dense, result.model, plan, sample, asked)
    if sample.planted:
        found_copies(sample.model, result.model, plan, sample, asked)
    trains(result.model, sample)
    if draw.flag(0.25):
        _is_identity(sample, dense, asked)
    return plan.num_cut


def _comes_back_as_it_was(dense: nn.Module, small: nn.Module) -> None:
    """Mode, precision, and which parameters are trained."""
    hold("training mode", small.training == dense.training)
    hold("precision", {p.dtype for p in small.parameters()} == {p.dtype for p in dense.parameters()})
    trained = {name: parameter.requires_grad for name, parameter in dense.named_parameters()}
    moved = [name for name, p in small.named_parameters() if p.requires_grad != trained.get(name, p.requires_grad)]
    hold("trained parameters", not moved, ", ".join(moved[:3]))


def _prune_anyhow(sample: Sample, asked: dict[str, Any]) -> tuple[snp.PruneResult, dict[str, Any]]:
    """What is asked, or a share of the units where a budget is out of reach for so small a network."""
    try:
        return _prune(sample, asked), asked
    except Refused:
        others = {name: value for name, value in asked.items() if not name.startswith("target_") and name != "cut"}
        if not {"target_macs", "target_params"} & asked.keys():
            raise
        return _prune(sample, others | {"target_units": 0.6}), others


def _prune(sample: Sample, asked: dict[str, Any]) -> snp.PruneResult:
    try:
        return snp.prune(sample.model, sample.batches, **asked)
    except ValueError as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        ours = traceback is not None and "snp" in Path(traceback.tb_frame.f_code.co_filename).parts
        if not ours or len(str(error).split()) < 6 or "cannot be exported" in str(error):
            raise WrongError(f"unclear: ValueError: {error}") from error
        raise Refused(str(error)) from error
    except Exception as error:
        raise WrongError(f"{type(error).__name__}: {str(error)[:300]}") from error


def equals_masked_dense(dense: nn.Module, small: nn.Module, plan: Plan, sample: Sample) -> None:
    """The small network and the dense one whose cut units are silent give the same in float64."""
    try:
        again = masked_dense(dense, small, plan, torch.Generator().manual_seed(0))
    except ValueError as error:
        raise WrongError(f"small network and plan: {error}") from error
    exact = copy.deepcopy(small).double()
    apart = distance(outputs(again, double(sample.unseen)), outputs(exact, double(sample.unseen)))
    hold("small equals masked dense", apart < 1e-6, f"differs by {apart:.1e} of the spread")


def keeps_values(dense: nn.Module, small: nn.Module, plan: Plan, asked: dict[str, Any]) -> None:
    """Without a fit every value that stays is the dense one; with one, those of norms are."""
    found, scaled = tensors_of(small), {t for layer in plan.text["attention"] for t in (layer["query"]["tensor"],)}
    for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]:
        owner = name.rpartition(".")[0]
        is_norm = tensor.ndim == 1 and name.endswith("weight")
        if (asked["reconstruct"] and not is_norm) or f"{owner}.weight" in scaled or not tensor.is_floating_point():
            continue
        if name.endswith(("running_mean", "running_var")) and asked["batch_norm"] == "reestimate":
            continue
        removed = {dim: indices for (n, dim), indices in plan.removed.items() if n == name}
        back = put_back(tensor.shape, found[name], removed, plan.blocks.get(name, 1), tensor.detach())
        hold("kept values", torch.equal(back, tensor.detach()), name)


def counts(dense: nn.Module, small: nn.Module, plan: Plan, sample: Sample, asked: dict[str, Any]) -> None:
    """Parameters and multiply-accumulates are what the plan says, and what was asked."""
    for name, model in (("dense", dense), ("pruned", small)):
        params = sum(parameter.numel() for parameter in model.parameters())
        said = plan.text["params"][name]
        hold("parameters counted", params == said, f"{name}: {params:,}, the plan says {said:,}")
        counted, said = macs(model, sample.unseen), plan.text["macs"][name]
        hold("MACs counted", counted == said, f"{name}: {counted:,}, the plan says {said:,}")
    if "target_macs" in asked:
        left = plan.text["macs"]["pruned"] / plan.text["macs"]["dense"]
        target = asked["target_macs"]
        hold("budget kept", target - 0.0101 <= left <= target + 1e-9, f"{left:.4f} of {target}")


def trains(small: nn.Module, sample: Sample) -> None:
    """One step of training: gradients are finite wherever the dense network has some."""
    wanted, trained = (_gradients(copy.deepcopy(model), sample) for model in (sample.model, small))
    hold("gradients", bool(trained) and all(torch.isfinite(g).all() for g in trained.values()), "not finite")
    # Weights that are computed on the way, or packed, have other names once they are written down.
    missing = {name for name in wanted if "parametrizations" not in name and "in_proj" not in name} - set(trained)
    hold("gradients", not missing, f"none for {sorted(missing)[:3]}")


def _gradients(model: nn.Module, sample: Sample) -> dict[str, Tensor]:
    model.train().requires_grad_(True)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss: Tensor = sum(  # type: ignore[assignment]
        (leaf.square().mean() / (leaf.detach().square().mean() + 1) for leaf in leaves(model(sample.inputs))),
        torch.zeros(()),
    )
    loss.backward()
    optimiser.step()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _is_identity(sample: Sample, dense: nn.Module, asked: dict[str, Any]) -> None:
    """Nothing to cut: nothing changes, to the bit."""
    kept = {name: value for name, value in asked.items() if not name.startswith("target_") and name != "cut"}
    result = _prune(sample, kept | {"target_units": 1.0})
    hold("identity keeps every value", same_state(dense, result.model))
    # Against weights that are written down: products with weights made on the way may round otherwise.
    hold("identity keeps outputs", same(outputs(dense, sample.unseen), outputs(result.model, sample.unseen)))
