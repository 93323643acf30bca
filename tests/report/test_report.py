"""Are size and speed measured right, and does the report say what the run's files say?"""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import timm
import torch
from matplotlib.ticker import MaxNLocator
from torch import nn

from snp.report.canvas import CUT, KEPT, evenly_spaced
from snp.report.curves import MAX_CURVES, decision_of, draw_curves
from snp.report.intervals import wilson
from snp.report.page import write_report
from snp.report.record import read_record
from snp.report.stages import format_count, format_seconds, format_tick
from snp.report.summary import write_summary
from snp.report.terminal import print_summary
from snp.report.tradeoff import STAGE_COLOURS, draw_tradeoff
from snp.report.widths import draw_widths
from snp.speed.network import macs, num_params

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
    """Training flags of every submodule and BatchNorm statistics survive counting."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net.train()
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    macs(net, torch.randn(2, 3, 4, 4))
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_shared_parameters_count_once() -> None:
    """A weight used by two layers is one parameter; buffers are none."""
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 5, bias=False))
    net[2].weight = net[0].weight
    assert num_params(net) == 25 + 10


def test_mistakes_in_measuring_are_named() -> None:
    """An empty example is refused in one sentence."""
    with pytest.raises(ValueError, match=r"at least one sample, found shape \(0, 3\)"):
        macs(nn.Linear(3, 3), torch.zeros(0, 3))


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_groups", [1, 7, 60])
def test_bars_cover_the_units_that_are_kept(tmp_path: Path, num_groups: int) -> None:
    """The coloured area of the bars is the number of kept units, on one scale for all layers."""
    folder, plan = write_run(tmp_path, num_groups)
    areas = []
    for part in (1, 2):
        for group in plan["groups"]:
            group |= {"num_units": 16, "kept": list(range(4 * part))}
        (folder / "plan.json").write_text(json.dumps(plan))
        areas.append(num_pixels(draw_widths(read_record(folder), tmp_path / "bars.png"), KEPT))
    assert areas[1] == pytest.approx(2 * areas[0], rel=0.03)
    rows = read_table(tmp_path / "bars.csv")
    assert [row["layer"] for row in rows] == [group["name"] for group in plan["groups"]]
    assert {(row["num_kept"], row["num_units"]) for row in rows} == {("8", "16")}
    assert all((tmp_path / f"bars.{kind}").stat().st_size > 1000 for kind in ("svg", "pdf"))


def test_layers_that_stay_have_bars(tmp_path: Path) -> None:
    """Layers outside of all groups stand in network order with their own width, and are marked."""
    folder, plan = write_run(tmp_path, 2)
    for group in plan["groups"]:
        group["producers"] = [{"tensor": f"{group['name']}.weight", "dim": 0}]
    (folder / "plan.json").write_text(json.dumps(plan))
    table = ["weight,dense_shape,pruned_shape,dense_macs,pruned_macs", "stem.weight,4x3x3x3,4x3x3x3,10,10"]
    table += [f"layer{number}.conv1.weight,16x4x3x3,5x4x3x3,100,30" for number in range(2)]
    (folder / "layers.csv").write_text("\n".join([*table, "fc.weight,10x16,10x5,16,5"]))
    draw_widths(read_record(folder), tmp_path / "bars.png")
    rows = [(row["layer"], row["num_units"], row["is_frozen"]) for row in read_table(tmp_path / "bars.csv")]
    assert rows == [("stem", "4", "1"), ("layer0.conv1", "16", "0"), ("layer1.conv1", "16", "0"), ("fc", "10", "1")]


def test_no_figure_is_clipped(tmp_path: Path) -> None:
    """The outermost pixels of every PNG that a run or a sweep leaves are white: no label reaches beyond."""
    for seed in (0, 1):
        folder, plan = write_run(tmp_path / f"{seed}")
        plan["settings"]["seed"] = seed
        (folder / "plan.json").write_text(json.dumps(plan))
        write_report(folder)
    write_summary(tmp_path)
    figures = list(tmp_path.rglob("*.png"))
    assert len(figures) >= 5
    for path in figures:
        pixels = matplotlib.image.imread(path)[:, :, :3]
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        assert all((edge > 0.99).all() for edge in edges), path


@pytest.mark.parametrize("num_groups", [1, 60])
def test_curves_are_drawn_with_their_cut(tmp_path: Path, num_groups: int) -> None:
    """Every panel has its curve and its cut; the CSV file beside it holds every group."""
    folder, plan = write_run(tmp_path, num_groups)
    record = read_record(folder)
    with_cut = draw_curves(decision_of(record), tmp_path / "with.png")
    assert num_pixels(with_cut, CUT) > 100 * min(num_groups, MAX_CURVES)
    assert num_pixels(with_cut, KEPT) > 100 * min(num_groups, MAX_CURVES)
    rows = read_table(tmp_path / "with.csv")
    assert len(rows) == 17 * num_groups
    first = [row for row in rows if row["group"] == "layer0.conv1"]
    assert {int(row["kept_in_plan"]) for row in first} == {len(plan["groups"][0]["kept"])}
    # Lost variance falls from all of it to none.
    assert [float(first[place]["lost_variance"]) for place in (0, -1)] == pytest.approx([1, 0], abs=1e-9)


@pytest.mark.parametrize(("scales", "low"), [((1.0, 1e-8), 1e-9), ((1.0, 0.5), 1e-5), ((0.0, 0.0), 1e-5)])
def test_no_curve_lies_below_its_axis(tmp_path: Path, scales: tuple[float, float], low: float) -> None:
    """Where a group's curve lies far below another's, the axis reaches down to its cut; else five decades."""
    folder, plan = write_run(tmp_path / "run", num_groups=2)
    plan["settings"]["cut"] = "output"
    (folder / "plan.json").write_text(json.dumps(plan))
    rows = [
        f"layer{g}.conv1,{k},16,{scale * (2.0**-k if k < 16 else 0)}"
        for g, scale in enumerate(scales)
        for k in range(17)
    ]
    (folder / "damage.csv").write_text("\n".join(["group,num_kept,num_units,damage", *rows]))
    decision = decision_of(read_record(folder))
    assert decision is not None
    lowest, highest = decision.limits
    assert lowest <= low
    assert lowest >= 1e-12 * max(scales)
    if 1e-8 not in scales:
        assert lowest > low / 10
    for name, curve in decision.curves.items():
        at_cut = dict(curve)[decision.cuts[name]]
        assert at_cut == 0 or lowest < at_cut < highest
    path = draw_curves(decision, tmp_path / "curves.png")
    image = matplotlib.image.imread(path)[..., :3]
    blue = (np.abs(image - np.array(matplotlib.colors.to_rgb(KEPT))) < 0.004).all(-1)
    if any(scales):  # both panels show a line
        assert all(half.sum() > 100 for half in np.array_split(blue, 2, axis=1))


def test_the_curve_shown_is_the_one_that_decided(tmp_path: Path) -> None:
    """Damage where the cut looked at damage, lost variance elsewhere; a level only where it is the rule."""
    folder, plan = write_run(tmp_path)
    assert decision_of(read_record(folder)).level == pytest.approx(1 - plan["settings"]["level"])
    table = ["group,num_kept,num_units,damage", *(f"layer0.conv1,{k},16,{2.0**-k}" for k in range(17))]
    (folder / "damage.csv").write_text("\n".join(table))
    assert decision_of(read_record(folder)).name == "lost_variance"
    plan["settings"]["cut"] = "output"
    (folder / "plan.json").write_text(json.dumps(plan))
    decision = decision_of(read_record(folder))
    assert (decision.name, decision.level, decision.curves["layer0.conv1"][:2]) == (
        "damage",
        None,
        [(0, 1.0), (1, 0.5)],
    )
    (folder / "damage.csv").unlink()
    decision = decision_of(read_record(folder))
    assert (decision.name, decision.level) == ("lost_variance", None)
    (folder / "variance.csv").unlink()
    assert decision_of(read_record(folder)) is None


def test_the_tradeoff_shows_the_stages_that_were_scored(tmp_path: Path) -> None:
    """A stage without accuracy has no point; without any the figure is left out."""
    folder, _ = write_run(tmp_path / "run", metrics=METRICS | {"tuned/acc1_percent": 60.0})
    path = draw_tradeoff(read_record(folder), tmp_path / "all.png")
    assert path is not None
    assert all(num_pixels(path, colour) > 50 for colour in STAGE_COLOURS.values())
    folder, _ = write_run(folder, metrics=METRICS | {"pruned/acc1_percent": None})
    path = draw_tradeoff(read_record(folder), tmp_path / "some.png")
    assert path is not None
    assert num_pixels(path, STAGE_COLOURS["pruned"]) == 0
    assert [row["stage"] for row in read_table(tmp_path / "some.csv")] == ["dense", "finetuned"]
    folder, _ = write_run(folder, metrics={"dense/macs": 5, "dense/acc1_percent": None})
    assert draw_tradeoff(read_record(folder), tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("target", "more", "column", "costs"),
    [
        ({"macs": 0.5}, {}, "macs", ["125485706", "62742853", "62742853"]),
        ({"params": 0.5}, {}, "params", ["855770", "430000", "430000"]),
        ({"params": 0.5}, {"prune/dense_cost": 800, "prune/pruned_cost": 400}, "params_outside_embeddings",
         ["800", "400", "400"]),
        ({"latency": 0.5}, {}, "latency", ["12.31", "8.1", "8.1"]),
    ],
)  # fmt: skip
def test_the_axis_is_what_was_asked_for(
    tmp_path: Path, target: dict[str, float], more: dict[str, float], column: str, costs: list[str]
) -> None:
    """A budget in parameters or time is drawn over parameters or time, with intervals by the test samples."""
    folder, plan = write_run(tmp_path / "run", metrics=METRICS | more | {"test/samples": 100})
    (folder / "plan.json").write_text(json.dumps(plan | {"settings": plan["settings"] | {"target": target}}))
    draw_tradeoff(read_record(folder), tmp_path / "points.png")
    rows = read_table(tmp_path / "points.csv")
    assert [row[column] for row in rows] == costs
    low, high = (float(rows[0][f"acc1_percent_{end}"]) for end in ("low", "high"))
    assert low < METRICS["dense/acc1_percent"] < high


def test_intervals_of_accuracies() -> None:
    """Wilson's interval: 80 of 100 as in tables, inside [0, 100] at the ends, narrower with more samples."""
    assert wilson(80.0, 100) == pytest.approx((71.11, 86.66), abs=0.01)
    assert wilson(100.0, 20) == pytest.approx((83.89, 100.0), abs=0.01)
    for count in range(1, 2000):
        assert wilson(0.0, count)[0] == 0 < wilson(0.0, count)[1]
        assert wilson(100.0, count)[0] < 100 == wilson(100.0, count)[1]
    assert wilson(90.0, 10_000)[1] - wilson(90.0, 10_000)[0] < 1.3


def test_mistakes_in_figures_are_named(tmp_path: Path) -> None:
    """An empty plan and a broken variance table are refused in one sentence."""
    folder, plan = write_run(tmp_path)
    (folder / "variance.csv").write_text("group,rank\na,1\n")
    with pytest.raises(ValueError, match="lacks the columns cumulative_variance"):
        decision_of(read_record(folder))
    (folder / "plan.json").write_text(json.dumps(plan | {"groups": []}))
    with pytest.raises(ValueError, match="The plan has no groups"):
        draw_widths(read_record(folder), tmp_path / "bars.png")


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
        assert f"| `{group['name']}` | 16 | {len(group['kept'])} | {share}" in text
    assert r"| `fc` | model output \| logits |" in text
    assert "| plan | 1 min 12 s |" in text
    assert "| `ordering` | `zca` |" in text
    shown = set(re.findall(r"^!\[.*\]\((.+)\)$", text, flags=re.MULTILINE))
    assert shown == {f"figures/{name}.png" for name in ("accuracy_against_cost", "widths", "lost_variance")}
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
    assert "66 % of the time" in text
    assert "65 passes each, batch 8, CPU threads: 2), the pruned network takes 66.0 % of the dense one's time" in text
    assert "| Accuracy (top-5, %) | 99.00 | - | - |" in text


def test_report_is_the_same_twice(tmp_path: Path) -> None:
    """Writing the report again changes nothing: it reads artefacts only."""
    folder, _ = write_run(tmp_path)
    write_report(folder)
    names = ("report.md", "report.html", "figures/widths.png", "figures/widths.svg", "figures/lost_variance.pdf")
    first = [(folder / name).read_bytes() for name in names]
    write_report(folder)
    assert [(folder / name).read_bytes() for name in names] == first


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
    assert ("lost_variance.png" in text) == (missing not in ("plan", "variance", "rows"))
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


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            lambda text: text[: text.rindex(",")],
            r"layers\.csv, line \d+: pruned_macs holds nothing; the file was cut short",
        ),
        (lambda text: text[: text.rindex(",") + 1], r"layers\.csv, line \d+: pruned_macs holds ''"),
        (lambda text: text + "\udcff", r"layers\.csv is no table in UTF-8"),
    ],
)
def test_tables_that_were_cut_short_are_named(cut: Callable[[str], str], message: str, tmp_path: Path) -> None:
    """By file, line and column."""
    folder, _ = write_run(tmp_path)
    header = "weight,dense_shape,pruned_shape,dense_macs,pruned_macs"
    text = cut(f"{header}\na.weight,2 x 2,2 x 1,4,2\nb.weight,2 x 2,2 x 1,4,2")
    (folder / "layers.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        _ = read_record(folder).layers


def test_summary_is_plain_text_without_a_terminal(tmp_path: Path) -> None:
    """In a log file the table is ASCII, aligned and unbroken, and the run folder is the last line, in one piece."""
    out, run_dir = io.StringIO(), tmp_path / ("long" * 30)
    print_summary(METRICS, run_dir, out)
    *table, last = out.getvalue().splitlines()
    assert last == f"Run folder: {run_dir}"
    assert all(line.isascii() and "\x1b" not in line for line in table)
    details = [line for line in table if line[0] not in "|+"]
    assert details[0].startswith("Time: calibrate ")
    assert details[1].startswith("Cut: 1,024 calibration samples")
    assert len({len(line) for line in table if line not in details}) == 1
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("|")]
    assert cells[0] == ["", "dense", "pruned", "finetuned"]
    assert ["Latency in turns (ms)", "12.3", "8.10 (66 %)", "as pruned"] in cells


def test_summary_says_what_a_budget_of_parameters_counts(tmp_path: Path) -> None:
    """All are in the table; a head that has weights of its own now makes them more. Not where nothing is left out."""
    found = {"dense/params": 200, "pruned/params": 230, "prune/target": "target_params", "prune/reached": 0.9}

    def lines(**others: object) -> list[str]:
        out = io.StringIO()
        print_summary(found | {"prune/dense_cost": 80} | others, tmp_path, out)
        return [line for line in out.getvalue().splitlines() if line.startswith("Parameters")]

    words = "Parameters: 90.0 % of those outside embeddings, as the budget counts; the table has all"
    assert lines() == [words]
    (tmp_path / "plan.json").write_text('{"settings": {"untied": ["lm_head.weight"]}}')
    assert lines() == [f"{words}, and the head, tied to its embedding before, has weights of its own now"]
    assert lines(**{"prune/dense_cost": 200}) == lines(**{"prune/target": "target_macs"}) == []


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


@pytest.mark.parametrize("most", [0.4, 1.97, 30.0, 812.0, 5.42e6])
def test_numbers_beside_an_axis_differ(most: float) -> None:
    ticks = [float(tick) for tick in MaxNLocator(6).tick_values(0, most)]
    assert len({format_tick(tick) for tick in ticks}) == len(ticks)


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
