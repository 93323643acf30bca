"""Are size and speed measured right, and does the report say what the run's files say?"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import timm
import torch
from torch import nn

from snp.report.canvas import CUT, KEPT, evenly_spaced
from snp.report.figures import MAX_CURVES, cumulative_variance, kept_units
from snp.report.page import write_report
from snp.report.stages import format_count, format_seconds
from snp.report.terminal import print_summary
from snp.report.tradeoff import STAGE_COLOURS, score_against_macs
from snp.speed.network import Latency, latency, macs, num_params

METRICS = {
    "dense/acc1_percent": 88.64, "dense/macs": 125_485_706, "dense/params": 855_770, "latency/dense_ms": 12.31,
    "pruned/acc1_percent": 84.4, "pruned/macs": 62_742_853, "pruned/params": 430_000, "latency/pruned_ms": 8.1,
    "finetuned/acc1_percent": 88.1, "finetuned/macs": 62_742_853, "finetuned/params": 430_000,
    "latency/batch": 8, "time/calibrate_s": 3.4, "time/plan_s": 72.0, "calibration/samples": 1024,
}  # fmt: skip


def make_plan(num_groups: int, num_units: int = 16, level: float = 0.9) -> tuple[dict[str, Any], list[list[Any]]]:
    """A plan whose group i falls off at its own speed, and the rows of its variance table."""
    groups, rows = [], []
    for index in range(num_groups):
        rates = [1 - math.exp(-rank / (2 + index % 5)) for rank in range(1, num_units + 1)]
        shares = [rate / rates[-1] for rate in rates]
        num_kept = next(rank for rank, share in enumerate(shares, start=1) if share >= level)
        group = {"name": f"layer{index}.conv1", "num_units": num_units, "kept": list(range(num_kept)), "members": []}
        groups.append(group | {"kept_variance": shares[num_kept - 1]})
        rows += [[group["name"], rank, num_units, share] for rank, share in enumerate(shares, start=1)]
    plan = {
        "format": 1, "recipe": {"family": "timm", "arguments": {"model_name": "resnet18"}},
        "settings": {"ordering": "zca", "cut": "variance", "level": level, "seed": 0}, "versions": {"torch": "2.15"},
        "macs": {"dense": 2_000_000, "pruned": 1_000_000}, "params": {"dense": 4000, "pruned": 3000},
        "groups": groups, "frozen": [{"name": "fc", "reason": "model output | logits"}],
    }  # fmt: skip
    return plan, rows


def write_run(folder: Path, num_groups: int = 3, metrics: dict[str, Any] | None = None) -> tuple[Path, dict[str, Any]]:
    """A run folder written by hand; return it and its plan."""
    plan, rows = make_plan(num_groups)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "metrics.json").write_text(json.dumps(METRICS if metrics is None else metrics))
    with (folder / "variance.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["group", "rank", "num_units", "cumulative_variance"], *rows])
    return folder, plan


def num_pixels(path: Path, colour: str) -> int:
    """How many pixels of a PNG have exactly this colour."""
    image = matplotlib.image.imread(path)[..., :3]
    return int((np.abs(image - np.array(matplotlib.colors.to_rgb(colour))) < 0.004).all(-1).sum())


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- measure --------------------------------------------------------------------------------------------------------


def test_macs_of_a_convolutional_network_are_the_analytic_count() -> None:
    """Grouped, depthwise and strided convolutions and a linear layer count as on paper, whatever the batch."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 12, 1, groups=4), nn.Flatten(), nn.Linear(12 * 5 * 5, 7),
    )  # fmt: skip
    expected = 10 * 10 * 8 * 3 * 9 + 5 * 5 * 8 * 9 + 5 * 5 * 12 * 2 + 12 * 25 * 7
    assert macs(net, torch.randn(1, 3, 10, 10)) == macs(net, torch.randn(4, 3, 10, 10)) == expected


def test_macs_count_fused_attention() -> None:
    """A vision transformer counts the two products inside fused attention, as on paper."""
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, num_classes=10)
    assert net.blocks[0].attn.fused_attn
    tokens, width = 17, 192
    attention = 2 * tokens * tokens * width
    block = tokens * width * 3 * width + attention + tokens * width * width + 2 * tokens * width * 4 * width
    expected = 16 * width * 3 * 16 * 16 + 12 * block + width * 10
    assert macs(net, torch.randn(2, 3, 64, 64)) == expected


def test_measuring_leaves_the_network_as_it_was() -> None:
    """Training flags of every submodule and BatchNorm statistics survive counting and timing."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net.train()
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    macs(net, torch.randn(2, 3, 4, 4))
    latency(net, torch.randn(2, 3, 4, 4), min_run_time_s=0.01)
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_shared_parameters_count_once() -> None:
    """A weight used by two layers is one parameter; buffers are none."""
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 5, bias=False))
    net[2].weight = net[0].weight
    assert num_params(net) == 25 + 10


def test_latency_grows_with_the_work() -> None:
    """Median and spread are positive and plausible; a hundredfold network is slower."""
    example = torch.randn(4, 64)
    small = latency(nn.Linear(64, 64), example, num_threads=1, min_run_time_s=0.1)
    large = latency(nn.Sequential(*[nn.Linear(64, 64) for _ in range(100)]), example, num_threads=1, min_run_time_s=0.1)
    assert isinstance(small, Latency)
    assert 0 < small.median_ms < 10
    assert min(small.iqr_ms, large.iqr_ms) > 0
    assert (small.num_threads, small.batch_size) == (1, 4)
    assert large.median_ms > 10 * small.median_ms


def test_latency_uses_and_restores_threads() -> None:
    """The threads asked for are those inside the forward pass; afterwards the old number is back."""
    seen: list[int] = []

    class Probe(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return batch

    before = torch.get_num_threads()
    assert latency(Probe(), torch.zeros(1), num_threads=2, min_run_time_s=0.01).num_threads == 2
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_mistakes_in_measuring_are_named() -> None:
    """An empty example and impossible numbers are refused in one sentence."""
    with pytest.raises(ValueError, match=r"at least one sample, found shape \(0, 3\)"):
        macs(nn.Linear(3, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="num_threads must be at least 1"):
        latency(nn.Linear(3, 3), torch.zeros(1, 3), num_threads=0)
    with pytest.raises(ValueError, match="min_run_time_s above 0"):
        latency(nn.Linear(3, 3), torch.zeros(1, 3), min_run_time_s=0)


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_groups", [1, 7, 60])
def test_bars_cover_the_share_that_is_kept(tmp_path: Path, num_groups: int) -> None:
    """The coloured area of the bars is the mean share of kept units."""
    plan, _ = make_plan(num_groups)
    for group in plan["groups"]:
        group["num_units"] = 4 * len(group["kept"])
    quarter = num_pixels(kept_units(plan, tmp_path / "quarter.png"), KEPT)
    for group in plan["groups"]:
        group["num_units"] = 2 * len(group["kept"])
    assert num_pixels(kept_units(plan, tmp_path / "half.png"), KEPT) == pytest.approx(2 * quarter, rel=0.03)
    rows = read_table(tmp_path / "half.csv")
    assert [row["group"] for row in rows] == [group["name"] for group in plan["groups"]]
    assert {row["kept_fraction"] for row in rows} == {"0.5"}


@pytest.mark.parametrize("num_groups", [1, 60])
def test_curves_are_drawn_with_their_cut(tmp_path: Path, num_groups: int) -> None:
    """Every panel has its curve and its cut; the CSV file beside it holds every group."""
    folder, plan = write_run(tmp_path, num_groups)
    with_cut = cumulative_variance(folder / "variance.csv", plan, tmp_path / "with.png")
    without = cumulative_variance(folder / "variance.csv", plan | {"groups": []}, tmp_path / "without.png")
    assert num_pixels(with_cut, CUT) > 100 * min(num_groups, MAX_CURVES)
    assert num_pixels(without, CUT) == 0
    assert num_pixels(without, KEPT) > 100 * min(num_groups, MAX_CURVES)
    rows = read_table(tmp_path / "with.csv")
    assert len(rows) == 16 * num_groups
    assert {int(row["num_kept"]) for row in rows if row["group"] == "layer0.conv1"} == {len(plan["groups"][0]["kept"])}


def test_accuracy_shows_the_stages_that_were_scored(tmp_path: Path) -> None:
    """A stage without accuracy has no point; without any the figure is left out."""
    path = score_against_macs(METRICS, tmp_path / "all.png")
    assert path is not None
    assert all(num_pixels(path, colour) > 50 for colour in STAGE_COLOURS.values())
    path = score_against_macs(METRICS | {"pruned/acc1_percent": None}, tmp_path / "some.png")
    assert path is not None
    assert num_pixels(path, STAGE_COLOURS["pruned"]) == 0
    assert [row["stage"] for row in read_table(tmp_path / "some.csv")] == ["dense", "finetuned"]
    assert score_against_macs({"dense/macs": 5, "dense/acc1_percent": math.nan}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_mistakes_in_figures_are_named(tmp_path: Path) -> None:
    """An empty plan and a broken variance table are refused in one sentence."""
    with pytest.raises(ValueError, match="The plan has no groups"):
        kept_units({"groups": []}, tmp_path / "bars.png")
    table = tmp_path / "variance.csv"
    table.write_text("group,rank\na,1\n")
    with pytest.raises(ValueError, match="lacks the columns cumulative_variance"):
        cumulative_variance(table, {}, tmp_path / "curves.png")


def test_evenly_spaced_keeps_the_ends() -> None:
    """A selection of groups holds the first and the last, has the asked length and repeats none."""
    names = [str(index) for index in range(61)]
    chosen = evenly_spaced(names, 24)
    assert (chosen[0], chosen[-1], len(set(chosen))) == ("0", "60", 24)
    assert evenly_spaced(names[:3], 24) == names[:3]


# --- page and terminal ----------------------------------------------------------------------------------------------


def test_report_says_what_the_files_say(tmp_path: Path) -> None:
    """The page holds the comparison, every group, every figure, the frozen layers, times and settings."""
    folder, plan = write_run(tmp_path / "run")
    text = write_report(folder).read_text()
    assert text.startswith("# Pruning report: resnet18\n")
    assert "needs 50 % of the MACs, 50 % of the parameters" in text
    assert "-0.54 points of top-1 accuracy" in text
    assert "| Accuracy (top-1, %) | 88.64 | 84.40 (-4.24) | 88.10 (-0.54) |" in text
    assert "| MACs | 125 M | 62.7 M (50 %) | 62.7 M (50 %) |" in text
    for group in plan["groups"]:
        share = f"{100 * group['kept_variance']:.1f} %"
        assert f"| `{group['name']}` | 16 | {len(group['kept'])} | {share} |" in text
    assert r"| `fc` | model output \| logits |" in text
    assert "| plan | 1 min 12 s |" in text
    assert "| `ordering` | `zca` |" in text
    shown = {line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert shown == {f"figures/{name}.png" for name in ("accuracy_against_macs", "kept_units", "cumulative_variance")}
    assert all((folder / path).stat().st_size > 5000 for path in shown)


def test_the_only_latency_is_the_one_in_turns(tmp_path: Path) -> None:
    """Times of a network by itself are shown nowhere; those in turns with batch, threads, passes and quartiles."""
    alone = {"dense/latency_ms": 77.7, "pruned/latency_ms": 122.2, "dense/acc5_percent": 99}
    turns = {f"latency/{name}": value for name, value in (
        ("measured_share", 0.66), ("measured_share_low", 0.6), ("measured_share_high", 0.7), ("passes", 65),
        ("threads", 2),
    )}  # fmt: skip
    folder, _ = write_run(tmp_path, metrics=METRICS | alone | turns)
    text = write_report(folder).read_text()
    assert "77.7" not in text
    assert "122" not in text.replace("122 M", "")
    assert "66 % of the latency" in text
    assert "65 passes each, batch 8, CPU threads: 2), the pruned network takes 66.0 % of the dense one's time" in text
    assert "| Accuracy (top-5, %) | 99.00 | - | - |" in text


def test_report_is_the_same_twice(tmp_path: Path) -> None:
    """Writing the report again changes nothing: it reads artefacts only."""
    folder, _ = write_run(tmp_path)
    first = write_report(folder).read_bytes(), (folder / "figures" / "kept_units.png").read_bytes()
    assert (write_report(folder).read_bytes(), (folder / "figures" / "kept_units.png").read_bytes()) == first


@pytest.mark.parametrize("missing", ["finetuned", "pruned accuracy", "metrics", "plan", "variance", "rows"])
def test_report_tolerates_missing_stages(tmp_path: Path, missing: str) -> None:
    """Whatever a run did not reach is left out of the page, the rest is there."""
    metrics = {name: value for name, value in METRICS.items() if not name.startswith("finetuned")}
    if missing == "pruned accuracy":
        metrics["pruned/acc1_percent"] = None  # type: ignore[assignment]
    folder, _ = write_run(tmp_path, metrics=metrics)
    absent = {"metrics": "metrics.json", "plan": "plan.json", "variance": "variance.csv"}.get(missing)
    if absent:
        (folder / absent).unlink()
    if missing == "rows":
        # Planners that do not order by variance leave the table empty.
        (folder / "variance.csv").write_text("group,rank,num_units,cumulative_variance\n")
    text = write_report(folder).read_text()
    assert "finetuned" not in text
    assert ("84.40 (-4.24)" in text) == (missing not in ("pruned accuracy", "metrics"))
    assert ("its accuracy was not compared" in text) == (missing in ("pruned accuracy", "metrics"))
    assert ("## What was cut" in text) == (missing != "plan")
    assert ("cumulative_variance.png" in text) == (missing not in ("plan", "variance", "rows"))
    # Without metrics.json the plan's own counts fill in.
    assert ("| MACs | 2.00 M | 1.00 M (50 %) |" in text) == (missing == "metrics")


def test_empty_and_broken_folders_are_named(tmp_path: Path) -> None:
    """A folder without artefacts and a torn JSON file are refused in one sentence."""
    with pytest.raises(FileNotFoundError, match=r"neither metrics\.json nor plan\.json"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"dense/macs": 1')
    with pytest.raises(ValueError, match=r"metrics\.json is not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object, found a list"):
        write_report(tmp_path)


def test_summary_is_plain_text_without_a_terminal(tmp_path: Path) -> None:
    """In a log file the table is ASCII, aligned and unbroken, and the run folder is the last line, in one piece."""
    out, run_dir = io.StringIO(), tmp_path / ("long" * 30)
    print_summary(METRICS, run_dir, out)
    *table, last = out.getvalue().splitlines()
    assert last == f"Run folder: {run_dir}"
    assert all(line.isascii() and "\x1b" not in line for line in table)
    details = [line for line in table if line[0] not in "|+"]
    assert details[0].startswith("Time: calibrate ")
    assert details[1].startswith("Cut: calibration/samples ")
    assert len({len(line) for line in table if line not in details}) == 1
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("|")]
    assert cells[0] == ["", "dense", "pruned", "finetuned"]
    assert ["Latency in turns (ms)", "12.3", "8.10 (66 %)", "as pruned"] in cells


def test_summary_shows_only_what_was_measured(tmp_path: Path) -> None:
    """Stages and measures without numbers have no column and no row; a single gap shows as a dash."""
    out = io.StringIO()
    print_summary({"dense/macs": 10, "pruned/macs": 5, "pruned/acc1_percent": 50.0}, tmp_path, out)
    text = out.getvalue()
    assert "finetuned" not in text
    assert "Latency" not in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["Accuracy (top-1, %)", "-", "50.00"] in cells
    out = io.StringIO()
    print_summary({}, tmp_path, out)
    assert out.getvalue() == f"Nothing was measured in this run.\nRun folder: {tmp_path}\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_940, "1.00 M"), (25_557_032, "25.6 M"), (4.09e9, "4.09 G")],
)
def test_counts_are_written_for_people(value: float, text: str) -> None:
    """Counts have three significant digits and a prefix; rounding never gives 1000 of one."""
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.421, "0.42 s"), (12.3, "12.3 s"), (200, "3 min 20 s"), (3725, "1 h 2 min")]
)
def test_times_are_written_for_people(value: float, text: str) -> None:
    """Seconds turn into minutes and hours where people would."""
    assert format_seconds(value) == text


def test_fused_attention_layers_are_counted() -> None:
    """PyTorch's own attention layer counts its projections and both products, fused or not."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = 5
    projections = tokens * 8 * (3 * 8 + 8) + 2 * tokens * 8 * 16
    assert macs(layer, torch.zeros(1, tokens, 8)) == projections + 2 * tokens * tokens * 8
    assert torch.backends.mha.get_fastpath_enabled()
