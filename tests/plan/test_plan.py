"""Does a plan survive the way to disk and back, and is a damaged one noticed?"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from snp.graph import analyse
from snp.graph.units import Slice, UnitGroup
from snp.plan.plan import FORMAT, GroupPlan, PruningPlan
from snp.plan.table import markdown_table
from snp.surgery.surgery import cut
from tests.audit import randomise

IRREGULAR = Slice("mixed.weight", 1, torch.tensor([[0, 7], [3, 2], [9, 9], [1, 4]]))
STRIDED = Slice("flat.weight", 1, torch.arange(4)[:, None] + 4 * torch.arange(3))
BLOCKS = Slice("first.weight", 0, 5 + torch.arange(12).reshape(4, 3))


def plan_of(kept: list[int], **facts: Any) -> PruningPlan:
    group = UnitGroup("first", 4, (BLOCKS,), (IRREGULAR, STRIDED), (), is_stream=True)
    return PruningPlan((GroupPlan(group, torch.tensor(kept), 0.123456),), **facts)


def same_members(one: UnitGroup, other: UnitGroup) -> bool:
    pairs = zip(one.members, other.members, strict=True)
    return all((a.tensor, a.dim) == (b.tensor, b.dim) and torch.equal(a.index, b.index) for a, b in pairs)


def test_json_round_trip_is_exact() -> None:
    """Every index, number and text comes back, whatever pattern it has."""
    plan = plan_of(
        [0, 2],
        settings={"target": {"macs": 0.1 + 0.2}, "ignore": ["odd [ 1,  2]", "[ ]"], "seed": 2**62, "level": None},
        macs={"dense": 10**15, "pruned": 7},
        params={"dense": 5, "pruned": 3},
        frozen={"head.weight": "shape '[2,  -1]' is\n[ 3 ]"},
        recipe={"family": "timm", "arguments": {"model_name": "vgg16", "sizes": [1, 2], "nothing": []}},
        versions={"torch": "2.6"},
    )
    back = PruningPlan.from_json(plan.to_json())
    for name in ("settings", "macs", "params", "frozen", "recipe", "versions"):
        assert getattr(back, name) == getattr(plan, name), name
    (wanted,), (found,) = plan.groups, back.groups
    assert torch.equal(found.kept, wanted.kept)
    assert found.kept_variance == wanted.kept_variance
    assert (found.group.name, found.group.num_units, found.group.is_stream) == ("first", 4, True)
    assert same_members(found.group, wanted.group)
    assert back.to_json() == plan.to_json()


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([[3]]),
        torch.tensor([[4, 5]]),
        torch.tensor([[4, 6]]),
        torch.tensor([[0], [1]]),
        torch.tensor([[1], [0]]),
        torch.tensor([[0, 2], [1, 3]]),
        torch.tensor([[2, 2], [2, 2]]),
        torch.tensor([[0], [2], [3]]),
    ],
)
def test_every_index_pattern_comes_back(index: torch.Tensor) -> None:
    """Regular patterns are written short, others in full; neither loses an index."""
    member = Slice("a.weight", 1, index)
    assert torch.equal(Slice.from_json(json.loads(json.dumps(member.to_json())), len(index)).index, index)


def test_plan_is_readable_line_by_line() -> None:
    """A list of numbers takes one line, so that plans can be compared by eye."""
    lines = plan_of([0, 2]).to_json().splitlines()
    assert any(line.strip() == '"kept": [0, 2],' for line in lines)


def test_removed_are_the_units_that_are_not_kept() -> None:
    """Indices to remove are those of cut units, ascending, once each."""
    removed = plan_of([0, 2]).removed()
    assert removed[("first.weight", 0)].tolist() == [8, 9, 10, 14, 15, 16]
    assert removed[("mixed.weight", 1)].tolist() == [1, 2, 3, 4]
    assert removed[("flat.weight", 1)].tolist() == [1, 3, 5, 7, 9, 11]


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 4))
    return randomise(nn.Sequential(*layers))


@cache
def real_plan(width: int = 8) -> PruningPlan:
    model = network(width)
    (group,) = analyse(model, torch.randn(2, 3, 8, 8)).groups
    dense = sum(parameter.numel() for parameter in model.parameters())
    return PruningPlan((GroupPlan(group, torch.tensor([1, 2, 6])),), params={"dense": dense, "pruned": 0})


def test_saved_plan_cuts_bit_for_bit_alike(tmp_path: Path) -> None:
    """The network cut by a plan from disk equals the one cut by the plan in memory, bit by bit."""
    plan = real_plan()
    plan.save(tmp_path / "plan.json")
    here, there = (
        cut(network(), plan).state_dict(),
        cut(network(), PruningPlan.load(tmp_path / "plan.json")).state_dict(),
    )
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def damaged(**changes: Any) -> str:
    plain = json.loads(real_plan().to_json())
    del plain["content"]  # else its hash would tell before anything else
    for key, value in changes.items():
        if key in plain or key == "code":
            plain[key] = value
        else:
            plain["groups"][0][key] = value
    return json.dumps(plain)


DAMAGED = {
    "empty": "",
    "cut off": real_plan().to_json()[:300],
    "not an object": "[1, 2]",
    "a number": "3",
    "null": "null",
    "other format": damaged(format=FORMAT + 1),
    "groups not a list": damaged(groups=5),
    "groups of numbers": damaged(groups=[1]),
    "frozen of texts": damaged(frozen=["head"]),
    "no kept units": damaged(kept=[]),
    "units kept that are not there": damaged(kept=[0, 8]),
    "negative units": damaged(kept=[-1, 2]),
    "units kept twice": damaged(kept=[1, 1]),
    "kept units unsorted": damaged(kept=[2, 1]),
    "kept units nested": damaged(kept=[[1], [2]]),
    "kept units as text": damaged(kept="12"),
    "number of units as text": damaged(num_units="8"),
    "negative number of units": damaged(num_units=-8),
    "members missing": damaged(producers=[{"tensor": "0.weight"}]),
    "index of another length": damaged(producers=[{"tensor": "0.weight", "dim": 0, "index": [[0], [1]]}]),
    "an option that is none": damaged(producers=[{"tensor": "0.weight", "dim": 0, "file": "x"}]),
    "a part that is none": damaged(groups=[], code="x"),
    "ragged index": damaged(producers=[{"tensor": "0.weight", "dim": 0, "index": [[0], [1, 2]]}]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_plan_is_a_clear_error(case: str) -> None:
    """Whatever is wrong with the text, the error names plan.json."""
    with pytest.raises(ValueError, match=r"plan\.json"):
        PruningPlan.from_json(DAMAGED[case])


def test_a_plan_that_was_changed() -> None:
    """A plan says by its hash that it is not what was written; plans of earlier versions have no hash."""
    text = real_plan().to_json()
    assert PruningPlan.from_json(text).mark == real_plan().mark
    changed = text.replace('"num_kept": ', '"num_kept": 1', 1)
    with pytest.raises(ValueError, match=r"plan\.json .* its content is not what was written"):
        PruningPlan.from_json(changed)
    plain = json.loads(text)
    del plain["content"]
    assert PruningPlan.from_json(json.dumps(plain)).mark == real_plan().mark


def test_missing_plan_is_a_clear_error(tmp_path: Path) -> None:
    """A folder without a plan is named."""
    with pytest.raises(ValueError, match="there is no plan at"):
        PruningPlan.load(tmp_path / "plan.json")


def test_partitions_are_written_and_checked() -> None:
    """A plan says that partitions keep equal numbers, and one that does not keep them is damaged."""
    group = UnitGroup("first", 4, (BLOCKS,), (STRIDED,), (), num_partitions=2)
    plan = PruningPlan((GroupPlan(group, torch.tensor([0, 3])),))
    (back,) = PruningPlan.from_json(plan.to_json()).groups
    assert back.group.num_partitions == 2
    assert back.group.units_per_partition == 2
    for kept in ([0, 1], [0, 1, 2], [3]):
        uneven = PruningPlan((GroupPlan(group, torch.tensor(kept)),)).to_json()
        with pytest.raises(ValueError, match="2 partitions of first keep unequal numbers"):
            PruningPlan.from_json(uneven)
    plain = json.loads(plan.to_json())
    del plain["content"]
    plain["groups"][0]["num_partitions"] = 3
    with pytest.raises(ValueError, match="4 units of first do not divide into 3 partitions"):
        PruningPlan.from_json(json.dumps(plain))
    del plain["groups"][0]["num_partitions"]
    (older,) = PruningPlan.from_json(json.dumps(plain)).groups
    assert older.group.num_partitions == 1


@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("words", [None, (0,), (0, 1), ()])
def test_tables_hold_every_cell_in_its_column(words: tuple[int, ...] | None, is_padded: bool) -> None:
    """As many columns in every line whatever cells hold, numbers marked to the right, cells as they were."""
    rows = [("a|b", "1"), ("two\nlines", "2.50"), ("", "x")]
    lines = markdown_table(("name", "n"), rows, words, is_padded=is_padded)
    parts = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert all(len(line) == 2 for line in parts)
    assert [[cell.strip() for cell in line] for line in parts[2:]] == [["a\\|b", "1"], ["two lines", "2.50"], ["", "x"]]
    marks = [cell.strip() for cell in parts[1]]
    for column, mark in enumerate(marks):
        assert set(mark) <= set(":-")
        assert len(mark) >= 3
        assert mark.endswith(":") == (words is not None and column not in words)
        assert mark.startswith(":") == (words is not None and column in words)
    assert (len(set(map(len, lines))) == 1) == is_padded
