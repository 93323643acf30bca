"""Do sizes that a module keeps, at which its code splits tensors, follow the cut?"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.units import Count
from snp.plan.plan import GroupPlan, PruningPlan
from snp.surgery.checks import self_check
from snp.surgery.module_sizes import recount
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.audit import outputs, randomise
from tests.graphs import ROWS, Net, cut_anyhow


class Gated(nn.Module):
    """A gated convolution block of timm's MambaOut: a gate, a part that passes, a part that is convolved."""

    def __init__(self, width: int, hidden: int, convolved: int, sizes: type = tuple) -> None:
        super().__init__()
        self.norm, self.first = nn.LayerNorm(width), nn.Linear(width, 2 * hidden)
        self.split_indices = sizes((hidden, hidden - convolved, convolved))
        self.depth = nn.Conv1d(convolved, convolved, 3, padding=1, groups=convolved)
        self.last = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, passed, convolved = torch.split(self.first(self.norm(x)), self.split_indices, dim=-1)
        convolved = self.depth(convolved.transpose(1, 2)).transpose(1, 2)
        return x + self.last(F.gelu(gate) * torch.cat((passed, convolved), dim=-1))


TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


def gated(convolved: int = 5, sizes: type = tuple) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), Gated(8, 12, convolved, sizes), Gated(8, 9, 4), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("sizes", [tuple, list])
def test_sizes_follow_the_cut(sizes: type) -> None:
    """Each unit has a row in the gate and one in its own part, and counts in both entries."""
    model = gated(sizes=sizes)
    passing, convolved, *_ = cut_anyhow(model, TOKENS).groups
    assert passing.producers[0].index.tolist() == [[u, u + 12] for u in range(7)]
    assert passing.counts == tuple(Count("1", "split_indices", position, 1) for position in (0, 1))
    assert convolved.producers[0].index.tolist() == [[u, u + 12] for u in range(7, 12)]
    assert convolved.counts == tuple(Count("1", "split_indices", position, 1) for position in (0, 2))
    plan = PruningPlan((GroupPlan(passing, torch.tensor([1, 2, 5])), GroupPlan(convolved, torch.tensor([0, 4]))))
    small: Any = cut(model, plan)
    assert small[1].split_indices == sizes((5, 3, 2))
    assert small[2].split_indices == (9, 5, 4)
    assert model[1].split_indices == sizes((12, 7, 5)), "the dense network is as it was"
    assert self_check(with_weights(model, masked_weights(model, plan)), small, Batch.of(TOKENS)) < 1e-5


def test_part_of_no_size_stays_empty() -> None:
    """A block that convolves all of its units."""
    group = cut_anyhow(gated(convolved=12), TOKENS).groups[0]
    assert group.counts == (Count("1", "split_indices", 0, 1), Count("1", "split_indices", 2, 1))


def test_sizes_come_back_from_disk(tmp_path: Any) -> None:
    """The plan holds what surgery needs, so that saved networks load to the last bit."""
    model = randomise(gated())
    result = snp.prune(model, [TOKENS], target_var=0.8, structures=("ffn",))
    snp.save(result, tmp_path)
    loaded = snp.load(tmp_path, randomise(gated()))
    assert sum(result.model[1].split_indices) < 24
    assert loaded[1].split_indices == result.model[1].split_indices
    assert torch.equal(outputs(loaded, TOKENS), outputs(result.model, TOKENS))


class Parts(nn.Module):
    """Parts of one input, at sizes that the constructor wrote down."""

    def __init__(self, sizes: tuple[int, ...], **more: Any) -> None:
        super().__init__()
        self.sizes = sizes
        self.__dict__.update(more)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.sizes, dim=-1)


def parted(parts: nn.Module) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        left, right = m.parts(m.both(x))
        return m.one(left) + m.other(right)

    layers = {"both": nn.Linear(6, 16), "parts": parts, "one": nn.Linear(6, 4), "other": nn.Linear(10, 4)}
    return Net(forward, **layers)


def test_unequal_parts_of_a_plain_split() -> None:
    """Each part has an entry of its own."""
    left, right = cut_anyhow(parted(Parts((6, 10))), ROWS).groups
    assert (left.num_units, left.counts) == (6, (Count("parts", "sizes", 0, 1),))
    assert (right.num_units, right.counts) == (10, (Count("parts", "sizes", 1, 1),))


def test_module_under_two_names_is_counted_once() -> None:
    """Its two splits are of the same units, so its list loses them once."""
    parts = Parts((6, 10))

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.both(x)
        (first, second), (third, fourth) = m.parts(x), m.alias(x)
        return m.one(first + third) + m.other(second * fourth)

    model = Net(forward, both=nn.Linear(6, 16), parts=parts, alias=parts, one=nn.Linear(6, 4), other=nn.Linear(10, 4))
    left, right = cut_anyhow(model, ROWS).groups
    assert [count.position for group in (left, right) for count in group.counts] == [0, 1]


def refused(model: nn.Module) -> dict[str, str]:
    randomise(model)
    groups = analyse(model, ROWS).groups
    assert all(group.counts == () for group in groups)
    return confirm(model, groups, Batch.of(ROWS))[1]


def test_two_lists_of_the_same_sizes_are_left_to_the_trial() -> None:
    """Which of them the code splits by is not known, so the cut is refused, not guessed."""
    reasons = refused(parted(Parts((6, 10), others=[6, 10])))
    assert len(reasons) == 2
    assert all("does not run" in reason for reason in reasons.values())


def test_one_list_for_two_streams_is_left_to_the_trial() -> None:
    """A cut of one of them would change the sizes at which the other is split."""

    def forward(m: Net, x: Tensor) -> Tensor:
        (first, second), (third, fourth) = m.parts(m.both(x)), m.parts(m.more(x))
        return m.one(first) + m.other(second) + m.three(third) + m.four(fourth)

    model = Net(
        forward, both=nn.Linear(6, 16), more=nn.Linear(6, 16), parts=Parts((6, 10)), one=nn.Linear(6, 4),
        other=nn.Linear(10, 4), three=nn.Linear(6, 4), four=nn.Linear(10, 4),
    )  # fmt: skip
    assert len(refused(model)) == 4


STRANGE = [("gone", "sizes", 0, 1), ("parts", "gone", 0, 1), ("parts", "sizes", 2, 1), ("parts", "sizes", 0, 9)]


@pytest.mark.parametrize("count", [Count(*strange) for strange in STRANGE])
def test_plan_for_another_model_is_refused(count: Count) -> None:
    """The message names the list and what it holds."""
    with pytest.raises(ValueError, match=f"entry {count.position} of {count.attribute} in {count.module}"):
        recount(parted(Parts((6, 10))), count, 1)


class Hierarchical(nn.Module):
    """Parts of one width each, every one convolved with what came of the one before, as in Res2Net."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.width, self.scale, self.other = width, 3, other
        self.enter, self.leave = nn.Conv1d(4, 3 * width, 1), nn.Conv1d(3 * width, 4, 1)
        self.each = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = F.relu(self.enter(x)).split(self.width, 1)
        found = [first]
        for layer, part in zip(self.each, others, strict=True):
            found.append(F.relu(layer(part + found[-1])))
        return x + self.leave(torch.cat(found, 1))


class Partial(nn.Module):
    """A part that is convolved and one that passes, at two numbers of the module, as in FasterNet."""

    def __init__(self, convolved: int, passed: int) -> None:
        super().__init__()
        self.convolved, self.passed = convolved, passed
        self.enter, self.layer = nn.Conv1d(4, convolved + passed, 1), nn.Conv1d(convolved, convolved, 3, padding=1)
        self.leave = nn.Conv1d(convolved + passed, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = F.relu(self.enter(x)).split([self.convolved, self.passed], 1)
        return self.leave(torch.cat([F.relu(self.layer(one)), other], 1))


MAPS = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))


def test_one_width_of_all_parts_follows_the_cut() -> None:
    """Every part loses the same places, and the number that the code splits at falls with them."""
    model = Hierarchical(7, other=5).eval()
    graph = analyse(model, MAPS)
    group = next(group for group in graph.groups if group.num_units == 7)
    assert group.counts == (Count("", "width", None, 1),)
    assert {row[1] - row[0] for row in group.producers[0].index.tolist()} == {7}
    passed, refused = confirm(model, graph.groups, Batch.of(MAPS))
    assert group in passed
    assert not refused
    small: Any = cut(model, PruningPlan((GroupPlan(group, torch.tensor([0, 2, 3])),)))
    assert (small.width, small.each[0].in_channels, small.enter.out_channels) == (3, 3, 9)


def test_a_number_that_two_attributes_have_is_left_to_the_trial() -> None:
    """Nobody says which of them the code splits at: the group stays."""
    model = Hierarchical(7, other=7).eval()
    graph = analyse(model, MAPS)
    _, refused = confirm(model, graph.groups, Batch.of(MAPS))
    assert "enter" in refused


def test_numbers_of_two_parts_follow_the_cut() -> None:
    """Each part has a number of its own."""
    model = Partial(6, 9).eval()
    graph = analyse(model, MAPS)
    assert {group.counts for group in graph.groups if group.counts} == {
        (Count("", "convolved", None, 1),),
        (Count("", "passed", None, 1),),
    }
    assert not confirm(model, graph.groups, Batch.of(MAPS))[1]
    result = snp.prune(model, [MAPS.repeat(8, 1, 1)], target_units=0.5, cut="uniform")
    assert (result.model.convolved, result.model.passed) != (6, 9)
    assert result.model(MAPS).shape == MAPS.shape
