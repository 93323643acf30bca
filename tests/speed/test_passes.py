"""Are passes that wait for launches timed as graphs, and networks that are all overhead refused?"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import snp
from snp.core.budget import Target
from snp.plan.latency_table import LatencyTable
from snp.plan.table import time_sentence
from snp.report.speed import in_turns
from snp.speed.clock import MOST_OVERHEAD, refuse_overhead
from snp.speed.graphs import captured, queued
from snp.speed.passes import MOST_IDLE, Conditions, Passes, autocast_of, passes_in_turns

TABLE = LatencyTable({}, 1.0, 0.0, 0.0, 8, 1, "none", {"dense": 2.0})


def sleeping(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


class Machine:
    """Passes that sleep, and what is left of each once its launches do not count; None where it has no graph."""

    def __init__(self, **seconds: tuple[float, float | None]) -> None:
        self.calls = {name: sleeping(call) for name, (call, _) in seconds.items()}
        self._replays = {self.calls[name]: replay for name, (_, replay) in seconds.items()}

    def capture(self, call: Callable[[], object], _: object) -> Callable[[], object] | None:
        replay = self._replays[call]  # type: ignore[index]
        return None if replay is None else sleeping(replay)


def medians(found: Passes) -> dict[str, float]:
    return {name: statistics.median(times.wall) for name, times in found.times.items()}


def test_graphs_show_what_launches_hide() -> None:
    """Two networks that wait for the same launches take the same; replayed, the smaller one takes half."""
    machine = Machine(dense=(0.012, 0.008), pruned=(0.012, 0.004))
    found = passes_in_turns(machine.calls, min_seconds=0.0, capture=machine.capture)
    assert found.graphs
    assert found.idle == pytest.approx(2 / 3, abs=0.1)  # of the one that waits most
    assert medians(found)["pruned"] / medians(found)["dense"] == pytest.approx(0.5, abs=0.15)


def test_what_hardly_waits_is_called_layer_by_layer() -> None:
    """A GPU that is busy all the time needs no graph; an earlier decision counts, whatever is found now."""
    machine = Machine(dense=(0.012, 0.0118), pruned=(0.006, 0.0059))
    found = passes_in_turns(machine.calls, min_seconds=0.0, capture=machine.capture)
    assert not found.graphs
    assert found.idle < MOST_IDLE
    assert passes_in_turns(machine.calls, min_seconds=0.0, capture=machine.capture, graphs=True).graphs
    waiting = Machine(dense=(0.012, 0.004), pruned=(0.012, 0.002))
    kept = passes_in_turns(waiting.calls, min_seconds=0.0, capture=waiting.capture, graphs=False)
    assert (kept.graphs, kept.idle) == (False, 0.0)
    assert medians(kept)["pruned"] >= 0.012


def test_like_is_compared_with_like() -> None:
    """Where one of the networks has no graph, all are called layer by layer."""
    machine = Machine(dense=(0.006, 0.001), pruned=(0.006, None))
    for graphs in (None, True):
        found = passes_in_turns(machine.calls, min_seconds=0.0, capture=machine.capture, graphs=graphs)
        assert (found.graphs, found.idle) == (False, 0.0)
        assert min(medians(found).values()) >= 0.006


def test_a_cpu_has_no_graphs() -> None:
    """Nothing is captured, and a call stands for itself."""
    call = sleeping(0.0)
    assert captured(call, "cpu") is None
    assert (queued(call, "cpu").call, queued(call, "cpu").length) == (call, 1)
    assert not passes_in_turns({"pass": call}, min_seconds=0.0).graphs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_graph_computes_what_the_pass_does() -> None:
    """Replayed after its inputs changed; what looks at values is not captured, and random numbers still come."""
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).cuda().eval(), torch.randn(2, 3, 8, 8, device="cuda")
    seen: list[torch.Tensor] = []

    def call() -> torch.Tensor:
        seen.append(model(images))
        return seen[-1]

    replay = captured(call, "cuda")
    assert replay is not None
    images.normal_()
    replay()
    with torch.inference_mode():
        torch.testing.assert_close(seen[-1], model(images))
    assert captured(lambda: images.sum().item(), "cuda") is None
    assert torch.randn(3, device="cuda").isfinite().all()
    assert captured(lambda: model(images), "cuda", repeats=4) is not None
    assert queued(lambda: images.sum().item(), "cuda").length == queued(lambda: model(images), "cuda").length > 1


def test_all_overhead_is_refused_with_the_share_that_is_not() -> None:
    """The sentence names the budget, the share, the way it was timed, and what to try."""
    table = replace(TABLE, constant_ms=0.96 * 2.0)
    with pytest.raises(
        ValueError, match=r"prune\.target_latency=0\.6 cannot be met: this network is all overhead"
    ) as caught:
        refuse_overhead(table, Target("latency", 0.6))
    for words in (
        "Only 4% of a pass",
        "2 ms for 8 samples",
        "layer by layer",
        "prune.latency_batch",
        "prune.target_macs",
    ):
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="replayed as a CUDA graph"):
        refuse_overhead(replace(table, graphs=True), Target("latency", 0.6))


@pytest.mark.parametrize(("overhead", "share"), [(1.0, 1.0), (MOST_OVERHEAD, 0.5), (0.0, 0.01)])
def test_what_layers_take_is_not_called_overhead(overhead: float, share: float) -> None:
    """All of the time can always be met, and the cut decides what can be reached of layers that take some."""
    refuse_overhead(replace(TABLE, constant_ms=overhead * 2.0), Target("latency", share))


class Waiting(nn.Module):
    """A network that does something else for most of its time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        grid = torch.ones(300, 300)
        for _ in range(3):
            grid = grid @ grid / 300
        return self.layers(rows) + grid.mean()


def test_a_network_that_is_all_overhead_is_refused() -> None:
    """By the library call, as it is measured here."""
    with pytest.raises(ValueError, match=r"this network is all overhead\. Only \d% of a pass"):
        snp.prune(Waiting().eval(), [torch.randn(32, 8)], target_latency=0.5, ordering="variance", progress=False)


def test_passes_run_in_the_precision_of_the_caller() -> None:
    """Whatever holds around them: autocast is on where it was asked for, and off where it was not."""
    model, rows, seen = nn.Linear(4, 4), torch.randn(2, 4), list[torch.dtype]()

    def call() -> None:
        seen.append(model(rows).dtype)

    device = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_of(device) == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert autocast_of(device) is None
            Conditions(1, 1, torch.bfloat16).applied(call, device)()
            Conditions(1, 1).applied(call, device)()
    assert seen == [torch.bfloat16, torch.float32]
    table = replace(TABLE, autocast="bfloat16", graphs=True)
    assert Conditions.of(LatencyTable.from_json(table.to_json())) == Conditions(8, 1, torch.bfloat16, True)
    assert Conditions.of(TABLE) == Conditions(8, 1, None, False)


TURNS = {"measured_share": 0.66, "measured_share_low": 0.6, "measured_share_high": 0.7, "passes": 65.0, "batch": 8.0}
TURNS |= {"threads": 2.0}


def test_the_time_of_a_pass_is_said_with_how_it_was_measured(tmp_path: Path) -> None:
    """One sentence for plans, pages and `snp inspect`; where nothing was measured there is none."""
    said = time_sentence(TURNS)
    assert said == (
        "Measured in turns (65 passes each, batch 8, CPU threads: 2), the pruned network takes 66.0 % of the dense "
        "one's time (quartiles 60.0 to 70.0 %)."
    )
    replayed = time_sentence(TURNS | {"graphs": 1.0, "idle_share": 0.4, "predicted_share": 0.7})
    assert "replayed as CUDA graphs, because the GPU would wait for launches for 40% of a pass)" in replayed
    assert replayed.endswith("; the plan predicted 70.0 %.")
    assert time_sentence({name: value for name, value in TURNS.items() if name != "passes"}) == ""
    assert in_turns({f"latency/{name}": value for name, value in TURNS.items()} | {"time/plan_s": 1.0}) == [said]
    plan = snp.prune(small(), [torch.randn(64, 8)], target_units=0.5, ordering="variance", progress=False).plan
    assert "Measured in turns" not in str(plan)
    assert str(plan.with_latency(TURNS)).endswith(f"\n{said}\n")
    folder = tmp_path / "0_target_macs=0.7,seed=1"  # as sweeps call theirs
    folder.mkdir()
    plan.save(folder / "plan.json")
    for numbers, wanted in (({}, False), ({f"latency/{name}": value for name, value in TURNS.items()}, True)):
        (folder / "metrics.json").write_text(json.dumps(numbers))
        words = [sys.executable, "-m", "snp", "inspect", str(folder)]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert (said in shown) == wanted


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
