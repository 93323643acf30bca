"""Do runs stand side by side as their files say: means over seeds, fronts, kept units, curves, and two plans?"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from snp.report.__main__ import main
from snp.report.compare import write_comparison
from snp.report.differences import plan_table, runs_table, spread_table
from snp.report.document import Cell
from snp.report.plots import PALETTE
from snp.report.runs import read_runs
from tests.report.browser import dom, overflow, screenshot
from tests.report.test_report import make_plan, num_pixels, read_table, write_run


def sweep(folder: Path, seeds: int = 2, **settings: Any) -> list[Path]:
    """Runs of two orderings at two targets, with seeds; accuracies are told apart by their last digits."""
    runs = []
    for rule, (ordering, cut) in enumerate((("zca", "variance"), ("random", "uniform"))):
        for target in (0.3, 0.6):
            for seed in range(seeds):
                accuracy = 90 - 10 * rule - 10 * (0.6 - target) + seed
                metrics = {
                    "dense/acc1_percent": 92.0, "pruned/acc1_percent": accuracy, "finetuned/acc1_percent": accuracy + 1,
                    "dense/macs": 1000, "pruned/macs": 1000 * target, "dense/params": 100, "pruned/params": 50,
                    "latency/measured_share": 0.8 + 0.1 * rule,
                }  # fmt: skip
                path, plan = write_run(folder / f"{ordering}-{target}-{seed}", metrics=metrics)
                choice = {"ordering": ordering, "cut": cut, "seed": seed, "target": {"macs": target}}
                plan["settings"] |= choice | settings
                (path / "plan.json").write_text(json.dumps(plan))
                if cut == "uniform":
                    curve = [f"layer0.conv1,{k},16,{2.0**-k}" for k in range(17)]
                    (path / "damage.csv").write_text("\n".join(["group,num_kept,num_units,damage", *curve]))
                runs.append(path)
    return runs


def texts(row: list[Cell | str]) -> list[str]:
    return [cell.text if isinstance(cell, Cell) else cell for cell in row]


def test_runs_that_differ_in_the_seed_are_one_point(tmp_path: Path) -> None:
    """Two rules by two targets; each point is the mean over its seeds with the smallest and the largest."""
    runs = read_runs(sweep(tmp_path, seeds=3))
    assert runs.lines == ["zca / variance", "random / uniform"]
    assert [(cell.line, cell.target, len(cell.records)) for cell in runs.cells] == [
        (line, target, 3) for line in runs.lines for target in ("macs 0.3", "macs 0.6")
    ]
    score = runs.cells[0].score("pruned")
    assert score is not None
    assert (score.mean, score.low, score.high, score.count) == (pytest.approx(88.0), 87.0, 89.0, 3)
    assert runs.cells[1].share("macs").mean == pytest.approx(60)  # type: ignore[union-attr]
    assert runs.cells[2].share("latency").mean == pytest.approx(90)  # type: ignore[union-attr]
    table = spread_table(runs, "finetuned")
    assert table is not None
    assert texts(table.rows[1]) == ["random / uniform", "79.00 (78.00 to 80.00, n=3)", "82.00 (81.00 to 83.00, n=3)"]


def test_other_settings_make_other_lines(tmp_path: Path) -> None:
    """A setting that differs names the lines that have the rarer value; seeds and targets never do."""
    more = sweep(tmp_path / "plain", seeds=2) + sweep(tmp_path / "deleted", seeds=1, reconstruct=False)
    lines = read_runs(more).lines
    assert lines[:2] == ["zca / variance", "random / uniform"]
    assert lines[2:] == ["zca / variance, reconstruct=false", "random / uniform, reconstruct=false"]


def asked_for(folder: Path, **settings: Any) -> Path:
    """A run whose plan is always the same, of settings by dotted name."""
    config: dict[str, Any] = {
        "model": {"_target_": "x", "name": "net", "checkpoint": None}, "data": {"image_size": 32, "num_workers": 0},
        "trainer": {"precision": "32-true", "devices": 1}, "run_dir": str(folder),
    }  # fmt: skip
    for name, value in settings.items():
        section, _, option = name.partition("__")
        config[section] = {**config[section], option: value}
    path, _ = write_run(folder)
    facts = {"config": config, "model": config["model"]["name"], "data": {"name": "pictures"}, "processes": 1}
    (path / "run.json").write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("data__image_size", 16, "data.image_size=16"),
        ("model__checkpoint", "other.ckpt", "model.checkpoint=other.ckpt"),
        ("trainer__precision", "bf16-mixed", "trainer.precision=bf16-mixed"),
        ("trainer__limit_train_batches", 4, "trainer.limit_train_batches=4"),
        ("data__num_workers", 4, ""),
        ("trainer__devices", 2, ""),
        ("trainer__enable_progress_bar", True, ""),
    ],
)
def test_networks_data_and_precision_are_no_seeds(setting: str, value: object, said: str, tmp_path: Path) -> None:
    """What decides a result makes a line of its own; folders, devices and what is shown do not."""
    folders = [*(asked_for(tmp_path / name) for name in "ab"), asked_for(tmp_path / "c", **{setting: value})]
    runs = read_runs(folders)
    assert [line.partition(", ")[2] for line in runs.lines] == (["", said] if said else [""])
    assert len(runs.cells[-1].records) == (1 if said else 3)


# What was asked for, and what two networks of that were found to get.
DECIDED: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"mirrored": "auto"}, [{"mirrored": True}, {"mirrored": False}]),
    ({"objective": "auto"}, [{"objective": "divergence of the output"}, {"objective": "squared error"}]),
    ({"round_to": "auto", "round_from": None}, [{"round_to": 8, "round_from": 64, "multiples": {"64": 8}},
                                                {"round_to": 16, "round_from": 128, "multiples": {"64": 16}}]),
    ({}, [{"untied": ["head"]}, {}]),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "found"), DECIDED)
def test_what_each_network_decides_is_no_setting(
    asked: dict[str, Any], found: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Seeds of one setting stay together whatever was found of each; what was asked by name is a setting of its own."""
    folders = [asked_for(tmp_path / name) for name in "abc"]
    for folder, wanted, decided in zip(folders, (asked, asked, found[0]), (*found, found[0]), strict=True):
        plan, facts = (json.loads((folder / name).read_text()) for name in ("plan.json", "run.json"))
        plan["settings"] |= decided
        facts["config"]["prune"] = {name: value for name, value in wanted.items() if name in asked}
        (folder / "plan.json").write_text(json.dumps(plan))
        (folder / "run.json").write_text(json.dumps(facts))
    assert len(read_runs(folders[:2]).lines) == 1
    assert len(read_runs(folders).lines) == (2 if asked else 1)
    for folder in folders:
        (folder / "run.json").unlink()  # as the library saves a plan
    assert len(read_runs(folders[:2]).lines) == (2 if "objective" in asked else 1)


def test_what_a_network_brings_along_is_told_by_its_name(tmp_path: Path) -> None:
    """Another network with arguments of its own: one word, and a checkpoint where one of its runs has another."""
    one, other = {"model__arguments": {"depth": 20}}, {"model__name": "large", "model__arguments": {"depth": 56}}
    folders = [asked_for(tmp_path / name, **one) for name in "ab"] + [asked_for(tmp_path / "c", **other)]
    assert read_runs(folders).lines[1].endswith(", model=large")
    more = [*folders, asked_for(tmp_path / "d", **other, model__checkpoint="x.ckpt")]
    assert read_runs(more).lines[2].endswith(", model=large, model.checkpoint=x.ckpt")


def test_folders_of_runs(tmp_path: Path) -> None:
    """A sweep's folder stands for its runs, in the order of their numbers; names tell them apart."""
    for number in (0, 2, 10):
        write_run(tmp_path / "sweep" / str(number))
    runs = read_runs([tmp_path / "sweep", tmp_path / "sweep" / "2"])
    assert list(runs.names.values()) == ["0", "2", "10"]
    write_run(tmp_path / "other" / "2")
    runs = read_runs([tmp_path / "sweep" / "2", tmp_path / "other"])
    assert list(runs.names.values()) == ["sweep/2", "other/2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is no run folder, and holds none"):
        read_runs([tmp_path / "empty"])


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By whatever paths: n says how many runs there are; the page and the terminal tell it."""
    first, other = sweep(tmp_path / "runs", seeds=2)[:2]
    (tmp_path / "link").symlink_to(first)
    runs = read_runs([first, tmp_path / "link", other, first / ".." / first.name])
    assert [record.folder for record in runs.records] == [first, other]
    assert runs.again == (first,)
    main([str(first), str(first), "--out", str(tmp_path / "page.html")])
    said = f"Named more than once, counted once: `{first}`"
    assert capsys.readouterr().err.strip() == said
    assert "counted once" in (tmp_path / "page.html").read_text()
    assert read_runs([first, other]).notes == ""


def test_perplexity_and_accuracy_do_not_mix(tmp_path: Path) -> None:
    """What cannot be ranked together is refused."""
    write_run(tmp_path / "a", metrics={"pruned/perplexity": 12.0, "pruned/macs": 5})
    write_run(tmp_path / "b")
    with pytest.raises(ValueError, match="do not stand on one page"):
        read_runs([tmp_path / "a", tmp_path / "b"])


def test_every_run_has_a_row(tmp_path: Path) -> None:
    """Scores and shares of the dense cost, as its files say; a missing number is a dash."""
    runs = sweep(tmp_path, seeds=1)
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    del metrics["finetuned/acc1_percent"]
    (runs[0] / "metrics.json").write_text(json.dumps(metrics))
    rows = [texts(row) for row in runs_table(read_runs(runs)).rows]
    assert rows[0] == [
        "zca-0.3-0",
        "zca / variance",
        "macs 0.3",
        "0",
        "92.00",
        "87.00",
        "-",
        "30.0 %",
        "50.0 %",
        "80.0 %",
    ]
    assert len(rows) == 4


def test_two_plans_differ_in_these_units(tmp_path: Path) -> None:
    """Counts of shared and own units per group, and the share of the shared ones."""
    first, second = sweep(tmp_path, seeds=1)[:2]
    plan, _ = make_plan(1)
    for folder, kept in ((first, [0, 1, 2, 5]), (second, [0, 2, 3])):
        plan["groups"][0]["kept"] = kept
        (folder / "plan.json").write_text(json.dumps(plan))
    records = read_runs([first, second]).records
    table = plan_table(*records)
    assert table is not None
    assert [texts(row) for row in table.rows] == [["`layer0.conv1`", "16", "4", "3", "2", "2", "1", "40 %"]]


def figures_of(page: Path) -> dict[str, Any]:
    """Name -> what is drawn, of a page."""
    found = re.findall(r'data-figure="([^"]+)">(.*?)</script>', page.read_text(), flags=re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def of_another_network(folder: Path, name: str) -> None:
    """Rename a run's network, and what it was trained on; its groups have the same names by chance."""
    (folder / "run.json").write_text(json.dumps({"model": name, "data": {"name": f"data of {name}"}}))


def test_dense_networks_of_one_seed_that_differ_are_told(tmp_path: Path) -> None:
    """A rule that was given the better network is not the better rule; other seeds train other networks."""
    runs = sweep(tmp_path / "runs")
    page = tmp_path / "compare.html"
    words = "do not begin with the same dense network"
    assert words not in write_comparison(runs, page).read_text()
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    before, after = metrics["dense/acc1_percent"], metrics["dense/acc1_percent"] - 12.5
    (runs[0] / "metrics.json").write_text(json.dumps(metrics | {"dense/acc1_percent": after}))
    text = write_comparison(runs, page).read_text()
    assert words in text
    assert f"it scores from {after:.2f} to {before:.2f}" in text


def test_different_networks_do_not_meet_by_the_names_of_their_groups(tmp_path: Path) -> None:
    """The page says so; units and curves stand apart, and only plans of one network are laid beside each other."""
    runs = sweep(tmp_path / "runs", seeds=1)
    for folder, name in zip(runs, ("small", "wide", "wide", "deep"), strict=True):
        of_another_network(folder, name)
    found = read_runs(runs)
    assert {name: len(records) for name, records in found.by_network.items()} == {"small": 1, "wide": 2, "deep": 1}
    assert [record.folder for record in found.pair] == runs[1:3]
    page = write_comparison(runs, tmp_path / "compare.html")
    assert "These are 3 different networks (small, wide, deep)" in page.read_text()
    assert "Scores on different data (data of deep, data of small, data of wide) do not compare" in page.read_text()
    figures = figures_of(page)
    assert [len(figures[f"kept-units{end}"]["data"][0]["y"]) for end in ("", "-2", "-3")] == [1, 2, 1]
    assert {f"curves-variance{end}" for end in ("", "-2", "-3")} <= set(figures)
    stars = {text for each in figures["front-macs"]["data"] for text in each.get("text", []) if "dense" in text}
    assert stars == {"dense small", "dense wide", "dense deep"}


def test_two_runs_of_two_networks_have_no_plans_side_by_side(tmp_path: Path) -> None:
    """Nor do two sizes of a network of one name."""
    first, second = sweep(tmp_path / "runs", seeds=1)[:2]
    metrics = json.loads((second / "metrics.json").read_text()) | {"dense/params": 333}
    (second / "metrics.json").write_text(json.dumps(metrics))
    assert len(read_runs([first, second]).pair) == 1
    page = write_comparison([first, second], tmp_path / "compare.html").read_text()
    assert "of 333 parameters" in page
    assert "Two plans" not in page


def test_the_page_holds_what_it_draws(tmp_path: Path) -> None:
    """Figures lie in the page as data, nothing is fetched, and a name that looks like markup stays text."""
    runs = sweep(tmp_path / "a<b>&", seeds=1)
    page = write_comparison(runs, tmp_path / "out" / "compare.html", title="<b>Runs</b>").read_text()
    assert "<b>Runs</b>" not in page
    body = page[page.index("<main>") :]
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", body)
    figures = dict(re.findall(r'data-figure="([^"]+)">(.*?)</script>', body, flags=re.DOTALL))
    assert set(figures) == {
        "front-macs",
        "front-params",
        "front-latency",
        "kept-units",
        "curves-variance",
        "curves-damage",
    }
    heat = json.loads(figures["kept-units"])["data"][0]
    assert heat["y"] == ["zca-0.3-0", "zca-0.6-0", "random-0.3-0", "random-0.6-0"]
    front = json.loads(figures["front-macs"])["data"]
    assert sorted(len(trace["x"] if isinstance(trace["x"], list) else [0]) for trace in front)[0] == 1
    groups = [
        button["label"] for button in json.loads(figures["curves-variance"])["layout"]["updatemenus"][0]["buttons"]
    ]
    assert groups == [f"layer{number}.conv1" for number in range(3)]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the page it wrote: of several runs, or of one; a mistake is one line and status 2."""
    runs = sweep(tmp_path / "runs", seeds=1)
    main([str(run) for run in runs] + ["--out", str(tmp_path / "c.html")])
    assert capsys.readouterr().out == f"{tmp_path / 'c.html'}\n"
    assert (tmp_path / "c.html").stat().st_size > 4_000_000  # the plotting library is part of it
    main([str(runs[0])])
    assert capsys.readouterr().out == f"{runs[0] / 'report.html'}\n"
    main([str(tmp_path / "runs")])
    assert capsys.readouterr().out == f"{tmp_path / 'runs' / 'summary.html'}\n"
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit) as ending:
        main([str(tmp_path / "none"), "--out", "x.html"])
    assert ending.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_places_that_cannot_be_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the option that names another, before figures are drawn."""
    runs = [str(run) for run in sweep(tmp_path / "runs", seeds=1)]
    (tmp_path / "file").write_text("")
    for option, place, said in (
        ("--out", "file/x.html", "give another --out=FILE"),
        ("--out", "nowhere/x.html", "give another --out=FILE"),
        ("--out", "runs", "is a folder: give the path of the page"),
        ("--figures", "file/x", "give another --figures=FOLDER"),
    ):
        with pytest.raises(SystemExit) as ending:
            main([*runs, "--out", str(tmp_path / "c.html"), option, str(tmp_path / place)])
        assert ending.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {option}={tmp_path / place}")
        assert said in error
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "file"}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """Nothing sticks out sideways, and lines of both rules are drawn in their colours."""
    page = write_comparison(sweep(tmp_path / "runs", seeds=2), tmp_path / "compare.html")
    assert overflow(page, tmp_path, width) <= 0
    pixels = screenshot(page, tmp_path, width, 4000)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (abs(255 * pixels - colour).max(-1) < 6).sum() > 300, colour


def test_figures_and_sorting_in_a_browser(tmp_path: Path) -> None:
    """All six figures are drawn, and a click on a title puts the rows in its order, numbers as numbers."""
    page = write_comparison(sweep(tmp_path / "runs", seeds=2), tmp_path / "compare.html")
    click = """<script>addEventListener("load", () => setTimeout(() => {
      const table = [...document.querySelectorAll("table")].find((one) => one.tHead.textContent.includes("seed"));
      table.tHead.rows[0].cells[5].querySelector("button").click();
      document.title = [...table.tBodies[0].rows].map((row) => row.cells[5].textContent.trim()).join(" ");
    }, 1500))</script></body>"""
    probe = tmp_path / "probe.html"
    probe.write_text(page.read_text().replace("</body>", click))
    text = dom(probe, tmp_path)
    assert len(re.findall(r'class="plot js-plotly-plot"', text)) == 6
    order = re.findall(r"<title>([^<]+)</title>", text)[0].split()
    assert order == sorted(order, key=float)
    assert len(order) == 8


def test_fronts_on_paper(tmp_path: Path) -> None:
    """Each rule in its colour, as PNG, SVG and PDF, with the means over seeds in the CSV file beside them."""
    runs = [str(run) for run in sweep(tmp_path / "runs", seeds=2)]
    main([*runs, "--out", str(tmp_path / "c.html"), "--figures", str(tmp_path / "figures")])
    assert all((tmp_path / "figures" / f"fronts.{kind}").stat().st_size > 5000 for kind in ("png", "svg", "pdf"))
    for colour in PALETTE[:2]:
        assert num_pixels(tmp_path / "figures" / "fronts.png", colour) > 200
    rows = read_table(tmp_path / "figures" / "fronts.csv")
    assert len(rows) == 8
    first = rows[0]
    assert (first["line"], first["target"], first["stage"], first["runs"]) == (
        "zca / variance",
        "macs 0.3",
        "pruned",
        "2",
    )
    assert float(first["score"]) == pytest.approx(87.5)
    assert float(first["macs_percent"]) == pytest.approx(30)
