"""Is every wrong option noticed by name, before anything is computed?"""

import dataclasses
import json
from typing import Any

import pytest

from snp.core.budget import Target
from snp.settings import PruneSettings


def test_no_target_means_half_of_the_multiply_accumulates() -> None:
    """The default asks for half the MACs."""
    assert PruneSettings().target == Target("macs", 0.5)


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"target_var": 0.95}, ("var", 0.95)),
        ({"target_units": 1, "cut": "uniform"}, ("units", 1.0)),
        ({"target_macs": 1e-9}, ("macs", 1e-9)),
        ({"target_params": 0.3, "cut": "uniform"}, ("params", 0.3)),
    ],
)
def test_target_is_the_one_given(options: dict[str, Any], target: tuple[str, float]) -> None:
    """Name and value of each kind of target."""
    assert PruneSettings(**options).target == Target(*target)


WRONG = [
    {"target_macs": 0},
    {"target_macs": -0.1},
    {"target_macs": 1.01},
    {"target_macs": float("nan")},
    {"target_macs": float("inf")},
    {"target_macs": "0.5"},
    {"target_macs": True},
    {"target_params": 50},
    {"ridge": -1e-9},
    {"ridge": float("nan")},
    {"ridge": "small"},
    {"round_to": 0},
    {"round_to": 2.0},
    {"round_to": True},
    {"round_from": 0},
    {"round_from": 16.0},
    {"seed": -1},
    {"seed": 1.5},
    {"seed": 2**63},
    {"reconstruct": "yes"},
    {"reconstruct": 1},
    {"streams": None},
    {"ignore": "head"},
    {"ignore": [1]},
    {"ignore": None},
    {"ordering": "zcaa"},
    {"cut": "energy"},
    {"planner": "oracle"},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_wrong_option_is_named_and_shown(options: dict[str, Any]) -> None:
    """The message holds the option's name and the value found."""
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=name) as caught:
        PruneSettings(**options)
    assert repr(value) in str(caught.value)


def test_two_targets_exclude_each_other() -> None:
    """Both are named."""
    with pytest.raises(ValueError, match=r"target_var and prune\.target_macs"):
        PruneSettings(target_var=0.9, target_macs=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"target_var": 0.9, "cut": "uniform"},
        {"target_units": 0.9, "cut": "output"},
        {"target_var": 0.9, "cut": "output"},
        {"target_units": 0.9, "cut": "variance"},
        {"target_var": 0.9, "planner": "magnitude"},
        {"target_var": 0.9, "planner": "osscar"},
        {"target_var": 0.9, "planner": "vbp"},
    ],
)
def test_target_that_the_cut_does_not_have_is_refused(options: dict[str, Any]) -> None:
    """A share of variance needs the variance cut, a share of units the uniform one; peers know neither."""
    with pytest.raises(ValueError, match=r"prune\.target_"):
        PruneSettings(**options)


def test_seed_zero_is_a_seed_and_lists_are_taken() -> None:
    """What yaml gives is taken: 0 as a seed, lists of patterns."""
    settings = PruneSettings(seed=0, ignore=["head*", "blocks.0"])
    assert settings.seed == 0
    assert settings.ignore == ("head*", "blocks.0")


def test_options_cannot_change_afterwards() -> None:
    """Validated once, valid for good."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        PruneSettings().seed = 3


def test_json_holds_every_option_once() -> None:
    """The plan's record has the target under one key and all other options as they are."""
    plain = PruneSettings(target_var=0.9, ignore=("a*",)).to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["target"] == {"var": 0.9}
    others = {f.name for f in dataclasses.fields(PruneSettings) if not f.name.startswith("target_")}
    assert set(plain) == others | {"target"}
