"""Is one pruned network right?  Laws that every prune keeps, tried on one network by means of their own."""

from __future__ import annotations

import copy
import hashlib
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import snp
from fuzzing.asked import options, options_of_copies
from fuzzing.dense_again import Plan, masked_dense, owned, plain_dense, put_back, tensors_of
from fuzzing.draw import Draw
from fuzzing.networks import Sample, network

__all__ = ["Outcome", "examine"]


class WrongError(Exception):
    """A law does not hold."""


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
    return Outcome("right", "", cut, words)


class Refused(Exception):  # noqa: N818
    """The package says in a sentence why it does not do it."""


def _examine(seed: int, sample: Sample, asked: dict[str, Any], draw: Draw) -> int:
    before, first = _state(sample.model), _outputs(sample.model, sample.unseen)
    result, asked = _prune_anyhow(sample, asked)
    _is("dense network untouched", _state(sample.model) == before)
    _is("dense outputs untouched", _same(first, _outputs(sample.model, sample.unseen)))
    dense = plain_dense(seed)
    with tempfile.TemporaryDirectory() as folder:
        snp.save(result, folder)
        plan = Plan(Path(folder) / "plan.json")
        loaded = snp.load(folder, model=sample.model)
    _is("loads to the bit", _same_state(result.model, loaded))
    _is("loaded outputs", _same(_outputs(result.model, sample.unseen), _outputs(loaded, sample.unseen)))
    _equals_masked_dense(dense, result.model, plan, sample)
    _keeps_values(dense, result.model, plan, asked)
    _counts(dense, result.model, plan, sample, asked)
    if sample.planted:
        _found_copies(sample.model, result.model, plan, sample, asked)
    _trains(result.model, sample)
    if draw.flag(0.25):
        _is_identity(sample, dense, asked, first)
    return plan.num_cut


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


def _is(law: str, holds: bool, found: str = "") -> None:
    if not holds:
        raise WrongError(f"{law}{': ' if found else ''}{found}")


def _state(model: nn.Module) -> str:
    """A hash of tensors, gradients and every plain attribute."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(name.encode() + tensor.numpy().tobytes() + str(tensor.dtype).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.requires_grad} {parameter.grad is None}".encode())
    for name, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, bool, tuple, list))}
        digest.update(f"{name} {type(module).__name__} {sorted(plain.items())}".encode())
        digest.update(str([len(hooks) for key, hooks in vars(module).items() if key.endswith("hooks")]).encode())
    return digest.hexdigest()


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    mode = model.training
    with torch.no_grad():
        found = _leaves(model.eval()(batch))
    model.train(mode)
    return found


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _same_state(first: nn.Module, second: nn.Module) -> bool:
    one, other = tensors_of(first), tensors_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _double(batch: Tensor) -> Tensor:
    return batch.double() if batch.is_floating_point() else batch


def _distance(wanted: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference of any channel relative to its spread, or to its rounding where it does not move."""
    _is("number of outputs", len(wanted) == len(found))
    worst = 0.0
    for want, have in zip(wanted, found, strict=True):
        _is("output shape", want.shape == have.shape, f"{tuple(want.shape)} became {tuple(have.shape)}")
        _is("finite outputs", bool(torch.isfinite(have).all()))
        for dim in {1, want.ndim - 1} - {0}:
            a, b = (t.double().movedim(dim, 0).flatten(1) for t in (want, have))
            scale = a.std(dim=1) + 1e-4 * a.abs().amax(dim=1) + 1e-8
            worst = max(worst, float(((a - b).abs().amax(dim=1) / scale).max()))
    return worst


def _equals_masked_dense(dense: nn.Module, small: nn.Module, plan: Plan, sample: Sample) -> None:
    try:
        again = masked_dense(dense, small, plan, torch.Generator().manual_seed(0))
    except ValueError as error:
        raise WrongError(f"small network and plan: {error}") from error
    double = copy.deepcopy(small).double()
    distance = _distance(_outputs(again, _double(sample.unseen)), _outputs(double, _double(sample.unseen)))
    _is("small equals masked dense", distance < 1e-6, f"differs by {distance:.1e} of the spread")


def _keeps_values(dense: nn.Module, small: nn.Module, plan: Plan, asked: dict[str, Any]) -> None:
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
        _is("kept values", torch.equal(back, tensor.detach()), name)


def _macs(model: nn.Module, batch: Tensor) -> int:
    """Multiply-accumulates of one sample by torch's counter."""
    plain = copy.deepcopy(model).requires_grad_(False).eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            with FlopCounterMode(display=False) as counter:
                plain(batch[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


def _counts(dense: nn.Module, small: nn.Module, plan: Plan, sample: Sample, asked: dict[str, Any]) -> None:
    for name, model in (("dense", dense), ("pruned", small)):
        params = sum(parameter.numel() for parameter in model.parameters())
        said = plan.text["params"][name]
        _is("parameters counted", params == said, f"{name}: {params:,}, the plan says {said:,}")
        macs, said = _macs(model, sample.unseen), plan.text["macs"][name]
        _is("MACs counted", macs == said, f"{name}: {macs:,}, the plan says {said:,}")
    if "target_macs" in asked:
        left = plan.text["macs"]["pruned"] / plan.text["macs"]["dense"]
        target = asked["target_macs"]
        _is("budget kept", target - 0.0101 <= left <= target + 1e-9, f"{left:.4f} of {target}")


def _found_copies(dense: nn.Module, small: nn.Module, plan: Plan, sample: Sample, asked: dict[str, Any]) -> None:
    """Half of all units are copies, half go: what readers give out can still be had from the units that stay."""
    exact, batch = copy.deepcopy(dense).double(), torch.cat([_double(batch) for batch in sample.batches])
    for group in plan.text["groups"]:
        kept = set(group["kept"])
        for member in group["consumers"]:
            lost = _least_loss(exact, member, [u in kept for u in range(group["num_units"])], batch)
            _is(
                "copies found", lost < 1e-4, f"{group['name']}: {lost:.1e} of what {member['tensor']} gives out is lost"
            )
    if asked["calibration"] == "joint" and asked.get("ridge") == 0.0:
        distance = _distance(_outputs(dense, sample.unseen), _outputs(small, sample.unseen))
        _is("copies folded", distance < 1e-2, f"outputs moved by {distance:.1e} of their spread")


def _least_loss(exact: nn.Module, member: dict[str, Any], kept: list[bool], batch: Tensor) -> float:
    """How much of a reader's output no fit from the kept units gives, as a share of its energy."""
    module, seen = exact.get_submodule(member["tensor"].rpartition(".")[0]), []
    hook = module.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    try:
        _outputs(exact, batch)
    finally:
        hook.remove()
    is_linear = isinstance(module, nn.Linear)
    columns = torch.cat([part.movedim(-1 if is_linear else 1, -1).flatten(0, -2) for part in seen])
    order = [owned(member, unit) for unit in range(len(kept))]
    stays = [index for unit, indices in enumerate(order) if kept[unit] for index in indices]
    all_of_them = [index for indices in order for index in indices]
    if any(isinstance(module, kind) and module.groups > 1 for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return 0.0
    weight = module.weight.detach().movedim(1, 0).flatten(1)  # [C, O ...]
    wanted = columns[:, all_of_them] @ weight[all_of_them]
    basis = torch.linalg.svd(columns[:, stays], full_matrices=False)
    directions = basis.U[:, 1e-9 * basis.S.max() < basis.S]
    rest = wanted - directions @ (directions.T @ wanted)
    return float(rest.square().sum() / wanted.square().sum().clamp_min(1e-12))


def _trains(small: nn.Module, sample: Sample) -> None:
    """One step of training: gradients are finite wherever the dense network has some."""
    wanted, trained = (_gradients(copy.deepcopy(model), sample) for model in (sample.model, small))
    _is("gradients", bool(trained) and all(torch.isfinite(g).all() for g in trained.values()), "not finite")
    missing = {name for name in wanted if "parametrizations" not in name} - set(trained)
    _is("gradients", not missing, f"none for {sorted(missing)[:3]}")


def _gradients(model: nn.Module, sample: Sample) -> dict[str, Tensor]:
    model.train().requires_grad_(True)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss: Tensor = sum(  # type: ignore[assignment]
        (leaf.square().mean() / (leaf.detach().square().mean() + 1) for leaf in _leaves(model(sample.batches[0]))),
        torch.zeros(()),
    )
    loss.backward()
    optimiser.step()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _is_identity(sample: Sample, dense: nn.Module, asked: dict[str, Any], first: list[Tensor]) -> None:
    """Nothing to cut: nothing changes, to the bit."""
    kept = {name: value for name, value in asked.items() if not name.startswith("target_")}
    if kept.get("cut") in ("variance", "output"):
        del kept["cut"]
    target = {"target_units": 1.0} if asked.get("cut") != "output" else {"target_macs": 1.0}
    result = _prune(sample, kept | target)
    _is("identity keeps every value", _same_state(dense, result.model))
    _is("identity keeps outputs", _same(first, _outputs(result.model, sample.unseen)))
