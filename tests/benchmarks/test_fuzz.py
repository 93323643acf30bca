"""Does the fuzz see what is wrong, and does it find nothing in fifty networks?"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import snp

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEEDS = (3, 8, 10, 11)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fuzzing.checks

    yield fuzzing.checks
    for name in [name for name in sys.modules if name.partition(".")[0] == "fuzzing"]:
        del sys.modules[name]


def pruned(checks: ModuleType, seed: int, folder: Path, planted: bool = False, **options: Any) -> tuple[Any, ...]:
    """Data with the network, the small network, and what the plan says."""
    sample = checks.network(seed, planted=planted)
    plainly = {"target_units": 0.6, "round_to": 1, "calibration": "joint", "ordering": "variance"}
    result = snp.prune(sample.model, sample.batches, **(plainly | options))
    snp.save(result, folder)
    return sample, result.model, checks.Plan(folder / "plan.json")


def rewritten(checks: ModuleType, plan: Any, folder: Path) -> Any:
    (folder / "plan.json").write_text(json.dumps(plan.text))
    return checks.Plan(folder / "plan.json")


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_columns_are_seen(checks: ModuleType, seed: int, tmp_path: Path) -> None:
    """A plan whose readers read each unit's neighbour is refuted; the plan as it is passes."""
    sample, small, plan = pruned(checks, seed, tmp_path)
    dense = checks.plain_dense(seed, planted=False)
    checks.equals_masked_dense(dense, small, plan, sample)
    for group in plan.text["groups"]:
        for member in group["consumers"]:
            indices = [checks.owned(member, unit) for unit in range(group["num_units"])]
            member["index"] = indices[1:] + indices[:1]
    with pytest.raises(checks.WrongError, match="masked dense"):
        checks.equals_masked_dense(dense, small, rewritten(checks, plan, tmp_path), sample)


@pytest.mark.parametrize("seed", SEEDS)
def test_changed_values_are_seen(checks: ModuleType, seed: int, tmp_path: Path) -> None:
    """Without a fit every value that stays is the dense one."""
    asked = {"reconstruct": False, "batch_norm": "keep"}
    _, small, plan = pruned(checks, seed, tmp_path, reconstruct=False)
    dense = checks.plain_dense(seed, planted=False)
    checks.keeps_values(dense, small, plan, asked)
    with torch.no_grad():
        next(small.parameters()).view(-1)[0] += 1e-4
    with pytest.raises(checks.WrongError, match="kept values"):
        checks.keeps_values(dense, small, plan, asked)


@pytest.mark.parametrize("what", ["macs", "params"])
def test_wrong_counts_are_seen(checks: ModuleType, what: str, tmp_path: Path) -> None:
    """By one."""
    sample, small, plan = pruned(checks, 8, tmp_path)
    dense = checks.plain_dense(8, planted=False)
    checks.counts(dense, small, plan, sample, {})
    plan.text[what]["pruned"] += 1
    with pytest.raises(checks.WrongError, match="counted"):
        checks.counts(dense, small, plan, sample, {})


def test_lost_copies_are_seen(checks: ModuleType, tmp_path: Path) -> None:
    """An order at random loses units of which no copy stays."""
    asked = {"calibration": "joint", "ridge": 0.0}
    for ordering, finds in (("pivoted", True), ("random", False)):
        options = asked | {"ordering": ordering, "target_units": 0.5}
        sample, small, plan = pruned(checks, 100, tmp_path, planted=True, **options)
        if finds:
            checks.found_copies(sample.model, small, plan, sample, asked)
        else:
            with pytest.raises(checks.WrongError, match="copies found"):
                checks.found_copies(sample.model, small, plan, sample, asked)


def test_touched_networks_are_seen(checks: ModuleType) -> None:
    """A value, a gradient, a number, a flag and a hook."""
    changes = {
        "value": lambda layer: layer.weight.data[0, 0].add_(1),
        "frozen": lambda layer: layer.requires_grad_(False),
        "gradient": lambda layer: setattr(layer.weight, "grad", torch.ones_like(layer.weight)),
        "number": lambda layer: setattr(layer, "in_features", 7),
        "mode": lambda layer: layer.eval(),
        "hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    }
    hashes = {}
    for name, change in {"nothing": lambda layer: None, **changes}.items():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        change(layer)
        hashes[name] = checks.state(nn.Sequential(layer))
    assert len(set(hashes.values())) == len(changes) + 1


def test_errors_that_are_no_sentence_are_wrong(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out of torch, or says nothing, is wrong; a sentence of the package's own is a refusal."""
    for message, status in (("bad", "wrong"), ("prune.target_units must be a number in (0, 1], found 7", "wrong")):

        def fails(*_: object, message: str = message, **__: object) -> None:
            raise ValueError(message)

        monkeypatch.setattr(snp, "prune", fails)
        assert checks.examine(8).status == status
    monkeypatch.undo()
    monkeypatch.setattr(checks, "options", lambda draw: {"target_units": 7.0})
    assert checks.examine(8).status == "refused"


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_fifty_random_networks_are_pruned_rightly(checks: ModuleType, first: int) -> None:
    """Ten at a time; ``python benchmarks/fuzz.py --networks 1 --seed N`` repeats one."""
    outcomes = {seed: checks.examine(seed) for seed in range(first, first + 10)}
    assert {seed: outcome for seed, outcome in outcomes.items() if outcome.status == "wrong"} == {}
    assert sum(outcome.cut > 0 for outcome in outcomes.values()) >= 5


@pytest.mark.parametrize("seed", [4024, 4099, 4123, 4313])
def test_networks_that_were_wrong_once(checks: ModuleType, seed: int) -> None:
    """A weight turned round twice, an einsum over one unit that is left, heads whose scale has no short binary form.

    And a weight norm that nobody trains, of which PyTorch leaves a buffer.
    """
    outcome = checks.examine(seed)
    assert outcome.status == "right", outcome
