"""Do groups that are twins keep equally many units, and all others what they would?"""

import torch

from snp.graph.units import EXPERT_STEP, Slice, UnitGroup
from snp.plan.twins import evened, twins_left, twins_of


def group(name: str, twins: str = "") -> UnitGroup:
    index = torch.arange(32)[:, None]
    producer, consumer = Slice(f"{name}.weight", 0, index), Slice(f"{name}2.weight", 1, index)
    return UnitGroup(name, 32, (producer,), (consumer,), (), twins=twins)


GROUPS = [group("a"), group("b", "first"), group("c", "second"), group("d", "first"), group("e", "second")]


def test_twins_are_found() -> None:
    """By the name that they share; a group without one is alone."""
    assert twins_of(GROUPS) == [(0,), (1, 3), (2, 4), (1, 3), (2, 4)]


def test_twins_keep_their_mean() -> None:
    """Rounded up, so that a level that keeps more of one never keeps less of both."""
    assert evened(GROUPS, [7, 10, 3, 20, 4]) == [7, 15, 4, 15, 4]
    for more in range(5):
        kept = [5] * 5
        kept[more] += 1
        assert all(after >= before for after, before in zip(evened(GROUPS, kept), evened(GROUPS, [5] * 5), strict=True))


def test_twins_are_left_alone_together() -> None:
    """Who is refused takes its twins along, and nobody else."""
    assert list(twins_left(GROUPS, {"d", "a"})) == ["b"]
    assert twins_left(GROUPS, {"b", "d"}) == {}


def test_steps() -> None:
    """Whole rows of grouped products for twins; partitions, or single units, for others."""
    assert [one.step for one in GROUPS] == [1, EXPERT_STEP, EXPERT_STEP, EXPERT_STEP, EXPERT_STEP]
