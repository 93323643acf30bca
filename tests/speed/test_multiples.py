"""Does ``round_to=auto`` find what pays, measure it once, and give the plan of the numbers that it found?"""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import snp
from snp.core.rounding import MULTIPLES, Rounding, best_rounding
from snp.graph.batches import Batch
from snp.plan.plan import PruningPlan
from snp.settings import PruneSettings
from snp.speed import multiples
from snp.speed.kept_times import add_times, kept_times, user_table
from snp.speed.multiples import Place, precision_of, with_measured_rounding
from snp.surgery.subject import subject_of
from tests.command_line import run_here

AUTO = PruneSettings(round_to="auto")
PLAIN: dict[str, Any] = {"target_macs": 0.5, "ordering": "variance", "calibration": "joint", "progress": False}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network() -> nn.Module:
    """Groups of 128, 64 and 96 units: convolutions, a depthwise one, and linear layers."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=64)]
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 5)]
    return nn.Sequential(*layers).eval()


def place(table: Path | None = None) -> Place:
    return Place(torch.device("cpu"), torch.float32, batch=4, table=table)


def tiles(size: int, num_units: int, overhead: float = 0.0) -> dict[int, float]:
    """Times by multiple on a device that works in tiles of one size, as they are measured: around half of the units."""
    fitting = [multiple for multiple in MULTIPLES if 4 * multiple <= num_units]
    middle = num_units // 2

    def seconds(width: int) -> float:
        return overhead + -(-width // size) * size

    return {m: (seconds(middle - m) + seconds(middle + m)) / 2 for m in fitting}


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64])
def test_the_tile_of_a_device_is_found(size: int) -> None:
    """Work in tiles of any size is seen through, but for tiles so small beside the layer that nothing is lost."""
    found = best_rounding([(1024, 1.0, tiles(size, 1024))]).multiple
    lost = {m: tiles(size, 1024)[m] / tiles(size, 1024)[size] for m in MULTIPLES}
    assert found == next(m for m in MULTIPLES if lost[m] <= 1.05)
    narrow = best_rounding([(8 * size, 1.0, tiles(size, 8 * size))])
    assert (narrow.multiple, narrow.wide) == (size, None if size == 1 else 8 * size)


def test_in_doubt_the_smaller_multiple_is_taken() -> None:
    """Where nothing differs, or by less than a few percent, nothing is rounded; overhead hides what tiles cost."""
    flat = dict.fromkeys(MULTIPLES, 1.0)
    assert best_rounding([(512, 3.0, flat)]) == Rounding(1, None)
    assert best_rounding([(512, 3.0, flat | {64: 0.96})]) == Rounding(1, None)
    assert best_rounding([(512, 3.0, flat | {64: 0.9})]) == Rounding(64, 512)
    assert best_rounding([(64, 1.0, tiles(16, 64, overhead=1e4))]).multiple == 1
    assert best_rounding([]) == Rounding(1, None)


def test_what_does_not_fit_a_group_counts_as_not_rounded() -> None:
    """A multiple that only wide groups can take is weighed against one that all can, by what they take together."""
    wide, narrow = tiles(64, 512), tiles(8, 64)
    assert best_rounding([(512, 1.0, wide), (64, 100.0, narrow)]).multiple <= 16
    assert best_rounding([(512, 100.0, wide), (64, 1.0, narrow)]).multiple == 64


def test_a_width_that_was_asked_for_stays() -> None:
    """``round_from`` is the user's where it is given."""
    assert best_rounding([(64, 1.0, tiles(8, 64))], 64) == Rounding(8, 64)
    assert best_rounding([(64, 1.0, tiles(8, 64))], 65) == Rounding(1, 65)


def measured_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is timed from here on, by a machine that works in tiles of 16."""
    seen: list[str] = []

    def times(kind: Any, *_: object) -> dict[int, float]:
        seen.append(kind.text(1.0))
        return tiles(16, kind.num_units)

    monkeypatch.setattr(multiples, "_times", times)
    return seen


def test_times_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The table answers from then on; another precision, batch or number of threads, or a damaged file, measures."""
    seen, path = measured_once(monkeypatch), tmp_path / "deep" / "multiples.json"
    subject = subject_of(network(), torch.randn(2, 3, 8, 8), AUTO)

    def found(where: Place) -> PruneSettings:
        return with_measured_rounding(AUTO, subject, subject.example, where)[0]

    first = found(place(path))
    assert (first.round_to, first.round_from) == (16, 64)
    assert len(seen) == len(set(seen)) == 3
    assert found(place(path)) == first
    assert len(seen) == 3
    others = [
        Place(torch.device("cpu"), torch.bfloat16, 4, 1, path),
        Place(torch.device("cpu"), torch.float32, 8, 1, path),
    ]
    for number, other in enumerate([*others, Place(torch.device("cpu"), torch.float32, 4, 2, path)], 2):
        found(other)
        assert len(seen) == 3 * number
    assert found(place(path)) == first
    assert len(seen) == 12
    for text in (
        "{",
        "[1]",
        '"x"',
        json.dumps({place().name: {"layer": {"1": "quick"}}}),
        json.dumps({place().name: 3}),
    ):
        path.write_text(text)
        seen.clear()
        assert found(place(path)) == first
        assert len(seen) == 3
        assert found(place(path)) == first
        assert len(seen) == 3
    found(place())
    assert len(seen) == 6


def test_a_table_is_shared_by_places(tmp_path: Path) -> None:
    """What another place left stays; times that are none are not taken; a folder that is a file keeps nothing."""
    path = tmp_path / "multiples.json"
    add_times(path, "one", {"layer": {1: 2.0, 8: 1.0}})
    add_times(path, "two", {"layer": {1: 3.0}})
    add_times(path, "one", {"other": {1: 4.0}})
    assert kept_times(path, "one") == {"layer": {1: 2.0, 8: 1.0}, "other": {1: 4.0}}
    assert kept_times(path, "two") == {"layer": {1: 3.0}}
    assert kept_times(path, "three") == {}
    for wrong in ({"8": 1.0}, {"1": -1.0}, {"1": float("nan")}):
        path.write_text(json.dumps({"one": {"layer": wrong}}))
        assert kept_times(path, "one") == {}
    add_times(path / "below", "one", {"layer": {1: 1.0}})
    assert kept_times(path / "below", "one") == {}


def test_layers_are_really_timed() -> None:
    """Powers of two that fit, all above zero, in about two seconds of one CPU thread; the network stays as it is."""
    model, images = network(), torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subject = subject_of(model, images, AUTO)
    started = time.thread_time()
    settings, found = with_measured_rounding(AUTO, subject, Batch.of(images), place())
    assert time.thread_time() - started < 3
    assert settings.round_to in MULTIPLES
    assert set(found["multiples"]) == {"128", "64", "96"}
    assert all(4 * multiple <= int(units) for units, multiple in found["multiples"].items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_plan_is_that_of_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto found stands in the plan, kept units are multiples of it, and the numbers give the same plan."""
    measured_once(monkeypatch)
    model, images = network(), torch.randn(64, 3, 8, 8)
    plan = PruningPlan.from_json(snp.prune(model, [images], round_to="auto", **PLAIN).plan.to_json())
    assert (plan.settings["round_to"], plan.settings["round_from"]) == (16, 64)
    assert plan.settings["multiples"] == {"128": 16, "64": 16, "96": 16}
    assert user_table().is_file()
    numbers = {name: plan.settings[name] for name in ("round_to", "round_from")}
    written = snp.prune(model, [images], **numbers, **PLAIN).plan
    assert [group.kept.tolist() for group in plan.groups] == [group.kept.tolist() for group in written.groups]
    assert {**plan.settings, "multiples": None} == {**written.settings, "multiples": None}
    rounding = Rounding(16, 64)
    off = [g for g in plan.groups if len(g.kept) != rounding.up(len(g.kept), g.group.num_units, g.group.num_partitions)]
    assert len(off) <= 1  # the last percent of a budget is spent in single units


def test_precision_is_that_of_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the weights, or of autocast where the caller runs in it."""
    assert precision_of(network()) == torch.float32
    assert precision_of(network().bfloat16()) == torch.bfloat16
    assert precision_of(nn.ReLU()) == torch.get_default_dtype()
    measured_once(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        snp.prune(network(), [torch.randn(64, 3, 8, 8)], round_to="auto", **PLAIN)
    (place,) = json.loads(user_table().read_text())
    assert ", bfloat16, torch " in place


@pytest.mark.rehearsal
def test_a_run_asks_its_device(tmp_path: Path) -> None:
    """From the command line to the page: the number stands in plan and log, and its time among the stages."""
    run = run_here("prune.round_to=auto", "prune.preset=quick", "finetune.epochs=0", folder=tmp_path)
    assert run.status == 0, run.stderr
    folder = tmp_path / "run"
    settings = json.loads((folder / "plan.json").read_text())["settings"]
    assert settings["round_to"] in MULTIPLES
    assert set(settings["multiples"]) == {"16", "32", "64"}
    said = re.search(r"round_to=auto: (\d+) (in groups of \d+ units or more|\(rounding does not pay\)), by", run.stdout)
    assert said is not None
    assert int(said[1]) == settings["round_to"]
    assert ("does not pay" in said[2]) == (settings["round_to"] == 1)
    assert json.loads((folder / "metrics.json").read_text())["time/multiples_s"] < 10
    assert "times of layers at multiples" in (folder / "report.md").read_text()


def test_a_wrong_word_is_refused_on_the_command_line(tmp_path: Path) -> None:
    """One sentence, before anything is computed."""
    for word in ("automatic", "0", "-8", "8.5"):
        run = run_here(f"prune.round_to={word}", folder=tmp_path)
        assert run.status == 2
        assert "prune.round_to must be a whole number of at least 1 or auto, found" in run.stderr
