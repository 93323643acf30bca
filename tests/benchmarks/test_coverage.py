"""Does the coverage run tell right from wrong, and does its table say what was found?"""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from snp.settings import PruneSettings
from tests.attention_networks import build, pictures
from tests.command_line import BENCHMARKS
from tests.networks import cnn


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("coverage_checks")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("coverage_table")


def examined(checks: ModuleType, monkeypatch: pytest.MonkeyPatch, model: nn.Module, size: int = 8) -> dict[str, Any]:
    """What the run says about a network that is not in any library."""
    monkeypatch.setattr(checks, "smallest_input", lambda network, at_least: (model, size))
    found: dict[str, Any] = checks.examine(checks.Network("none", "own", "own"))
    return found


def test_network_that_works_passes(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """All groups audited and proven, 70 % of the MACs reached."""
    found = examined(checks, monkeypatch, cnn())
    assert found["status"] == "passed", found
    assert found["audited"] == found["groups"] == 4
    assert found["without_effect"] == 0
    assert 0.6 < found["left"] <= 0.7
    json.dumps(found)


def test_network_without_units_is_refused(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to cut is said in words."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    found = examined(checks, monkeypatch, model)
    assert found["status"] == "refused"
    assert "nothing in Sequential can be cut" in found["reason"]


def test_group_that_forgets_a_reader_is_wrong(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit of the run fails where a group is incomplete."""
    original = checks.subject_of

    def blind(*args: Any) -> Any:
        from dataclasses import replace

        subject = original(*args)
        group = next(group for group in subject.groups if len(group.consumers) > 1)
        return replace(subject, groups=(replace(group, consumers=group.consumers[:1]),))

    monkeypatch.setattr(checks, "subject_of", blind)
    found = examined(checks, monkeypatch, cnn())
    assert found["status"] == "wrong"
    assert "audit" in found["reason"]


def test_cost_that_is_not_true_is_wrong(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's count is held against a count of the network's own operations."""
    monkeypatch.setattr(checks, "macs", lambda model, batch: 7)
    found = examined(checks, monkeypatch, cnn())
    assert found["status"] == "wrong"
    assert "cost" in found["reason"]


def test_table_counts_and_names(table: ModuleType, tmp_path: Path) -> None:
    """One line per family, and the counts of the last line."""
    facts = {
        "groups": 5,
        "streams": 2,
        "audited": 5,
        "without_effect": 1,
        "prunable": 0.8,
        "prunable_with_streams": 0.81,
        "prunable_with_attention": 0.93,
        "outside": {"its output": 0.2},
        "outside_with_attention": {"its output": 0.1},
        "left": 0.69,
    }
    results = {
        ("snp", "timm", "resnet"): {"family": "resnet", "status": "passed", "reason": ""} | facts,
        ("snp", "timm", "odd"): {"family": "odd", "status": "refused", "reason": "no | units"},
        ("peer", "timm", "odd"): {"family": "odd", "status": "wrong", "reason": "audit", "builds": True, "runs": True,
                                  "groups": 9, "audit_failed": ["one", "two"], "unaudited": 1},
        ("peer", "timm", "resnet"): {"family": "resnet", "status": "refused", "reason": "took more than 60 s"},
    }  # fmt: skip
    table.write_table(results, tmp_path / "coverage.md")
    text = (tmp_path / "coverage.md").read_text()
    assert "## timm: passed 1 refused 1 wrong 0 of 2" in text
    assert "| 4 of 5 |" in text
    assert "| 80 % / 81 % / 93 % |" in text
    assert "inside groups 40 % as structures come, 46 % with those of attention" in text
    assert "| its output | 20.0 % | 1 |" in text
    assert "| its output | 10.0 % | 1 |" in text
    assert "no \\| units" in text
    assert "Passed 0, refused 1, wrong 1 of 2: 1 were looked at in time, the graph builds for 1, 1 run" in text
    assert "2 of 9 groups, in 1 networks, fail the audit, 1 could not be cut in part." in text


def test_attention_is_audited_where_it_is_asked_for(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, keys, values and heads add to the share; a group that forgets its readers does not pass."""
    model, _ = build("vit")
    found = examined(checks, monkeypatch, model, 16)
    assert found["status"] == "passed", found
    assert found["attention_groups"] == 6
    assert found["attention_idle"] == 0
    assert found["prunable_with_attention"] > found["prunable_with_streams"] + 0.2
    subject = checks.subject_of(model, pictures(), PruneSettings(structures=("ffn", "vo", "qk")))
    values = next(group for group in subject.groups if group.kind == "vo")
    kept = replace(values, consumers=(), others=())
    assert checks.moved(subject, kept, pictures())[0] > checks.LARGEST_MOVEMENT


@pytest.mark.slow
def test_families_of_both_libraries(checks: ModuleType) -> None:
    """A plain, a grouped and a transformer network, from the names of their families on."""
    networks = __import__("coverage_networks")
    known = networks.families()
    assert len(known) > 100
    for key in (("timm", "regnet"), ("timm", "convnext"), ("torchvision", "squeezenet")):
        found = checks.examine(networks.smallest_variant(*key, known[key]))
        assert found["status"] == "passed", found


@pytest.mark.slow
def test_peer_is_asked_the_same(checks: ModuleType) -> None:
    """Torch-Pruning cuts a plain network right."""
    pytest.importorskip("torch_pruning")
    peer = __import__("coverage_peer")
    assert peer.examine_peer(checks.Network("timm", "resnet", "resnet10t"))["status"] == "passed"
    assert torch.is_grad_enabled()


def test_sizes_that_are_published_need_no_memory(checks: ModuleType) -> None:
    """DistilBERT by hand: of each block's 12 w^2 products 8 w^2 are hidden units', and attention's come on top."""
    sizes = __import__("coverage_sizes")
    assert set(sizes.LEFT_OUT) < set(sizes.suite.BUILDERS)
    assert all(parameter.is_meta for parameter in sizes.network_of("distilbert").parameters())
    width, tokens = 768, sizes.TOKENS
    wanted = 8 * width**2 * (1 - 1 / 3072) / (12 * width**2 + 2 * tokens * width)
    assert sizes.share_of("distilbert") == pytest.approx((wanted, wanted), rel=1e-6)
