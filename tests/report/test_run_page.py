"""Does a run's own page say first what matters, stand by itself, and read at desktop and phone width?"""

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from snp.plan.table import unreached_sentence
from snp.report.asked import next_steps
from snp.report.choice import better_stage, choice_of
from snp.report.document import Cell, Code, Listing, Notes, Page, Section, Table, Text
from snp.report.findings import findings
from snp.report.html import to_html
from snp.report.intervals import standard_error
from snp.report.markdown import to_markdown
from snp.report.page import write_report
from snp.report.record import Record, read_record
from snp.report.stages import counted
from tests.report.browser import overflow, screenshot
from tests.report.test_report import METRICS, make_plan, write_run

GOOD = {
    "dense/acc1_percent": 90.0, "pruned/acc1_percent": 88.0, "finetuned/acc1_percent": 89.8, "test/samples": 10_000,
    "dense/macs": 100, "pruned/macs": 50, "finetuned/macs": 50, "calibration/samples": 1024,
    "prune/fitted_samples": 1024, "prune/self_check": 1e-7, "latency/measured_share": 0.6,
    "latency/measured_share_low": 0.58, "latency/measured_share_high": 0.62, "prune/reached": 0.5,
}  # fmt: skip


def record_of(tmp_path: Path, **changes: Any) -> Record:
    plan, _ = make_plan(2)
    plan["settings"]["target"] = {"macs": 0.5}
    return Record(tmp_path, GOOD | {name.replace("__", "/"): value for name, value in changes.items()}, plan, {})


def test_layers_that_calibration_does_not_reach_are_named(tmp_path: Path) -> None:
    """In the words of the library."""
    record = record_of(tmp_path)
    record.plan["settings"]["unreached"] = ["encoder.side"]
    assert findings(record) == (unreached_sentence(["encoder.side"]),)


def test_a_good_run_has_no_warnings(tmp_path: Path) -> None:
    """Nothing is said where there is nothing to say."""
    assert findings(record_of(tmp_path)) == ()


def test_a_time_that_reads_as_it_was_asked_for_is_not_missed(tmp_path: Path) -> None:
    """60.4 % is 60 % on the page."""
    times = {"latency__measured_share_low": 0.604, "latency__measured_share_high": 0.61}
    record = record_of(tmp_path, latency__measured_share=0.606, **times)
    record.plan["settings"] |= {"target": {"latency": 0.6}}
    assert not [sentence for sentence in findings(record) if "clock" in sentence]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finetuned__acc1_percent": 80.0, "pruned__acc1_percent": 70.0}, "Accuracy fell by 10.0 points"),
        ({"finetuned__acc1_percent": 60.0, "pruned__acc1_percent": 89.5}, "Fine-tuning made it worse: 89.50 became 60"),
        ({"latency__measured_share": 0.99, "latency__measured_share_high": 1.0, "latency__measured_share_low": 0.98},
         "No time was gained: a pass takes 99 %"),
        ({"latency__measured_share": 0.99, "latency__measured_share_low": 0.98, "latency__measured_share_high": 1.0,
          "target": {"latency": 0.9}, "prune__reached": 0.88},
         "missed by the clock: a pass takes 99 % of the dense one's where 90 % were asked for and 88 % predicted from"),
        ({"latency__measured_share": 0.66, "latency__measured_share_low": 0.62, "latency__measured_share_high": 0.7,
          "target": {"latency": 0.6}},
         "missed by the clock: a pass takes 66 % of the dense one's where 60 % were asked for and 50 % predicted from"),
        ({"latency__measured_share_high": 2.0}, "The clock was noisy: half of the passes took between 58 % and 200 %"),
        ({"finetuned__acc1_percent": 89.9, "pruned__acc1_percent": 89.5, "finetuned__val_acc1_percent": 90.0,
          "pruned__val_acc1_percent": 91.0},
         "Fine-tuning made it worse on the validation samples that decide: 91.00 became 90.00"),
        ({"finetuned__acc1_percent": 89.9, "pruned__acc1_percent": 89.5, "finetuned__val_acc1_percent": 70.0,
          "pruned__val_acc1_percent": 91.0, "val__samples": 1144},
         "Fine-tuning made it worse on the 1,144 validation samples that decide: 91.00 became 70.00"),
        ({"calibration__samples": 40}, "Only 40 calibration samples"),
        ({"prune__fitted_samples": 300}, "The fit saw 300 of the 1024 calibration samples"),
        ({"test__samples": 300}, "Only 300 test samples: the accuracy is known to ±3"),
        ({"prune__reached": 0.6}, "The target was missed: 60.0 % are left where 50.0 % were asked for"),
        ({"prune__self_check": 5e-4}, "The self-check found a difference of 5.0e-04"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """Each of these, and only this, is said of a run that is good otherwise."""
    target = {"target": changes["target"]} if "target" in changes else {}
    record = record_of(tmp_path, **{name: value for name, value in changes.items() if name != "target"})
    record.plan["settings"] |= target
    (sentence,) = findings(record)
    assert said in sentence


@pytest.mark.parametrize(
    ("macs", "settings", "is_said"),
    [
        (20, {}, True),
        (40, {}, False),
        (20, {"structures": ["ffn", "blocks"]}, False),
        (20, {"structures": ["ffn", "width"]}, False),
        (20, {"streams": True}, False),
        (20, {"trials": False}, False),
        (20, {"cut": "variance"}, False),
        (20, {"target": {"macs": 0.6}}, False),
    ],
)
def test_dear_time_is_said_where_blocks_could_go(
    tmp_path: Path, macs: int, settings: dict[str, Any], is_said: bool
) -> None:
    record = record_of(tmp_path, pruned__macs=macs)
    record.plan["settings"] |= {"target": {"latency": 0.6}, "cut": "output"} | settings
    said = [sentence for sentence in findings(record) if "60 % of the time left 20 %" in sentence]
    assert len(said) == is_said
    assert all("prune.structures=[ffn,blocks]" in sentence for sentence in said)


def test_blocks_are_advised_beside_what_was_cut(tmp_path: Path) -> None:
    record = record_of(tmp_path, pruned__macs=20)
    record.plan["settings"] |= {"target": {"latency": 0.6}, "cut": "output", "structures": ["ffn", "vo"]}
    assert any("`prune.structures=[ffn,vo,blocks]`" in sentence for sentence in findings(record))


def test_doubts_of_the_data_are_said(tmp_path: Path) -> None:
    """What the run found when it looked at the images."""
    record = record_of(tmp_path)
    record.facts["data"] = {"doubts": ["2 images lie in two classes"]}
    assert findings(record) == ("2 images lie in two classes",)


def test_layers_left_whole_are_said(tmp_path: Path) -> None:
    """Most of the cost in layers that nothing could be cut of is a warning; in the head alone it is none."""
    record = record_of(tmp_path)
    header = "weight,dense_shape,pruned_shape,dense_macs,pruned_macs\n"
    (tmp_path / "layers.csv").write_text(header + "a.weight,4x4,4x4,60,60\nb.weight,8x8,4x8,40,20\n")
    assert findings(record) == ("60 % of the dense network's multiply-accumulates are in 1 layers that lost nothing; "
                                "some were left whole where units were chosen, others could not be cut, for the "
                                "reasons under “What could not be cut”.",)  # fmt: skip
    record.plan["frozen"][0]["reason"] = "an output of the network"
    assert findings(record) == ()


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ({"pruned/acc1_percent": 80, "finetuned/acc1_percent": 81}, "finetuned"),
        ({"pruned/acc1_percent": 80, "finetuned/acc1_percent": 80}, "finetuned"),
        ({"pruned/acc1_percent": 80, "finetuned/acc1_percent": 79}, "pruned"),
        ({"pruned/perplexity": 20.0, "finetuned/perplexity": 25.0}, "pruned"),
        ({"pruned/perplexity": 20.0, "finetuned/perplexity": 15.0}, "finetuned"),
        # The validation score chooses, whatever the test score says.
        ({"pruned/acc1_percent": 80, "finetuned/acc1_percent": 79, "pruned/val_acc1_percent": 70,
          "finetuned/val_acc1_percent": 71}, "finetuned"),
        ({"pruned/acc1_percent": 80}, "pruned"),
        ({"dense/acc1_percent": 80}, None),
    ],
)  # fmt: skip
def test_the_better_network_is_the_headline(metrics: dict[str, Any], best: str | None) -> None:
    """By accuracy or perplexity; the later one where both are equal."""
    assert better_stage(metrics) == best


@pytest.mark.parametrize(
    ("samples", "pruned", "finetuned", "best", "said"),
    [
        (
            144,
            95.83,
            95.14,
            "finetuned",
            "the latest, and none is better by more than the standard error of 2.6 points",
        ),
        (144, 95.83, 96.53, "finetuned", "none scored better: pruned 95.83, fine-tuned 96.53 % on the 144 validation"),
        (144, 95.83, 90.97, "pruned", "better than what came after it, by more than the standard error of 3.0 points"),
        (50_000, 76.0, 75.4, "pruned", "better than what came after it, by more than the standard error of 0.3 points"),
        (144, 100.0, 99.3, "finetuned", "the latest"),
        (None, 95.83, 95.14, "pruned", "better than what came after it: pruned 95.83, fine-tuned 95.14 %"),
    ],
)
def test_a_choice_is_not_made_by_one_image(
    tmp_path: Path, samples: int | None, pruned: float, finetuned: float, best: str, said: str
) -> None:
    """An earlier network is taken only where it is clearly better; the page says which was, and why."""
    scores = {"val/samples": samples, "pruned/val_acc1_percent": pruned, "finetuned/val_acc1_percent": finetuned,
              "pruned/acc1_percent": 80.0, "finetuned/acc1_percent": 99.0}  # fmt: skip
    choice = choice_of(scores)
    assert choice is not None
    assert choice.stage == better_stage(scores) == best
    assert said in choice.reason
    folder, _ = write_run(tmp_path / "run", metrics=METRICS | scores)
    text = write_report(folder).read_text()
    assert f"| reported and exported | {best}; {choice.reason} |" in text
    assert ("Fine-tuning made it worse" in text) == (best == "pruned")


def test_the_standard_error_of_a_difference() -> None:
    """Of 80 and 70 of 100 that of the textbook to a few hundredth parts, and never zero."""
    assert standard_error(80.0, 70.0, 100) == pytest.approx(100 * (0.8 * 0.2 / 100 + 0.7 * 0.3 / 100) ** 0.5, rel=0.02)
    assert standard_error(100.0, 100.0, 50) > 1


def test_the_latest_of_three_networks_needs_no_clear_lead() -> None:
    """Tuned and fine-tuned networks win the doubtful cases, in this order, and lose the clear ones."""
    scores = {"val/samples": 100, "pruned/val_acc1_percent": 91.0, "tuned/val_acc1_percent": 90.0,
              "finetuned/val_acc1_percent": 89.0, "pruned/acc1_percent": 1, "tuned/acc1_percent": 1,
              "finetuned/acc1_percent": 1}  # fmt: skip
    assert better_stage(scores) == "finetuned"
    assert better_stage(scores | {"finetuned/val_acc1_percent": 60.0}) == "tuned"
    assert better_stage(scores | {"finetuned/val_acc1_percent": 60.0, "tuned/val_acc1_percent": 50.0}) == "pruned"


def test_warnings_come_first_and_the_better_network_is_reported(tmp_path: Path) -> None:
    """A fine-tuning that made it worse heads the page; the sentence below and `load` are of the pruned network."""
    worse = {"finetuned/acc1_percent": 20.0, "pruned/acc1_percent": 88.5}
    folder, _ = write_run(tmp_path / "run", metrics=METRICS | worse)
    text = write_report(folder).read_text()
    lines = [line for line in text.splitlines() if line]
    assert lines[1].startswith("> **Warning:** Fine-tuning made it worse: 88.50 became 20.00.")
    assert "The pruned network needs 50 % of the MACs" in text
    assert f'snp.load("{folder}")' in text
    page = (folder / "report.html").read_text()
    assert page.index("Fine-tuning made it worse") < page.index("The pruned network needs")


def test_the_page_says_what_was_asked_and_done(tmp_path: Path) -> None:
    """Command, commit, machine, data, samples, recipes and seed stand on both pages."""
    folder, _ = write_run(tmp_path / "run", metrics=METRICS | {"memory/peak_bytes": 3 * 2**30})
    facts = {
        "command": "python run.py model=tiny", "commit": "0123456789ab+", "started": "2026-01-02T03:04:05+00:00",
        "model": "tiny", "weights": "tiny has the weights of x.pth", "processes": 2,
        "machine": {"processor": "Some CPU", "cores": 8, "memory_gib": 64.0, "system": "Linux x86_64"},
        "data": {"name": "digits", "holds": "images", "train": 1438, "test": 359},
        "config": {"seed": 7, "finetune": {"epochs": 3, "optimizer": "sgd", "learning_rate": 0.01, "schedule": "cosine",
                                           "weight_decay": 5e-4}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    text = write_report(folder).read_text()
    for said in (
        "# Pruning report: tiny on digits", "| command | `python run.py model=tiny` |", "commit `0123456789ab+`",
        "| data | digits: 1,438 train images, 359 test images |", "1,024 of the training part (414 left out)",
        "Some CPU, 8 cores, 64 GiB, Linux x86_64, 2 processes", "| seed | 7; of the prune 0 |",
        "most main memory | 3.00 GiB", "3 epochs, sgd at 0.01, cosine schedule, weight decay 0.0005",
    ):  # fmt: skip
        assert said in text, said
    html = (folder / "report.html").read_text()
    for said in ("python run.py model=tiny", "0123456789ab+", "Some CPU, 8 cores", "layer0.conv1"):
        assert said in html


@pytest.mark.parametrize(("holds", "options"), [("images", " --int8"), ("text", "")])
def test_next_commands_can_be_typed(holds: str, options: str, tmp_path: Path) -> None:
    """A folder with spaces is quoted, and int8 is offered where it can be had."""
    write_run(tmp_path / "my run")
    (tmp_path / "my run" / "run.json").write_text(json.dumps({"data": {"name": "x", "holds": holds}}))
    commands = next_steps(read_record(tmp_path / "my run"))[-1].text.splitlines()
    assert commands[0].partition("   ")[0] == f"snp export '{tmp_path / 'my run'}'{options}"
    assert commands[-1] == f"snp compare '{tmp_path / 'my run'}' OTHER_RUN --out compare.html"


def test_one_of_a_kind() -> None:
    """One has no s, and no number is hard to read."""
    assert [counted(number, "seed") for number in (0, 1, 2, 1024.0)] == ["0 seeds", "1 seed", "2 seeds", "1,024 seeds"]


def test_html_asks_for_nothing_else_and_escapes_names(tmp_path: Path) -> None:
    """No address but data of its own; names that look like markup stay text."""
    folder, plan = write_run(tmp_path / "run")
    plan["frozen"][0]["reason"] = "<script>alert(1)</script> & `code`"
    (folder / "plan.json").write_text(json.dumps(plan))
    write_report(folder)
    html = (folder / "report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; <code>code</code>" in html
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"' )>]+)""", html)
    assert addresses
    assert all(address.startswith("data:image/svg+xml") for address in addresses)


def test_blocks_in_both_forms() -> None:
    """The same values give Markdown and HTML; a pipe opens no column, an empty section has no title."""
    table = Table(("name", "size"), [["`a|b`", Cell("1.5 k", 1500, 0.25)]], sorts=True)
    blocks = (Text("**bold** text"), Listing(("one",)), Notes(("look out",)), Code("x < y"), table)
    page = Page("Title", (Section("First", blocks), Section("Second", ())))
    markdown, html = to_markdown(page), to_html(page)
    assert "| `a\\|b` | 1.5 k |" in markdown
    assert "Second" not in markdown + html
    assert "> **Warning:** look out" in markdown
    assert '<td data-value="1500" style="--share:25.0%" data-bar>1.5\u00a0k</td>' in html
    assert "<code>x &lt; y</code>" in html
    assert "<strong>bold</strong> text" in html


def test_the_model_card_is_read_by_the_hub(tmp_path: Path) -> None:
    """The Hub's own reader finds task, tags and the score of the better network; the page says how to load it."""
    folder, _ = write_run(tmp_path / "run")
    facts = {"model": "tiny", "data": {"name": "digits", "holds": "images"}, "command": "python run.py model=tiny"}
    (folder / "run.json").write_text(json.dumps(facts))
    write_report(folder)
    card = huggingface_hub.ModelCard.load(folder / "model_card.md", ignore_metadata_errors=False)
    assert (card.data.library_name, card.data.pipeline_tag) == ("snp", "image-classification")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.881, "digits")
    assert 'snp.load("FOLDER", weights="finetuned")' in card.text
    assert "python run.py model=tiny" in card.text
    assert "50 % of the MACs" in card.text


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """Nothing sticks out sideways; bars and curves are drawn in their colours, and the window is not empty."""
    folder, _ = write_run(tmp_path / "run", num_groups=9)
    write_report(folder)
    page = folder / "report.html"
    assert overflow(page, tmp_path, width) <= 0
    pixels = screenshot(page, tmp_path, width, 3200)
    assert pixels.shape == (3200, width, 3)
    blue, red = (0x2A / 255, 0x6F / 255, 0x97 / 255), (0xC8 / 255, 0x55 / 255, 0x3D / 255)
    for colour in (blue, red):
        assert (abs(pixels - colour).max(-1) < 0.02).sum() > 100
    ink = (pixels.mean(-1) < 0.5).mean(1)
    assert (ink > 0).mean() > 0.25


def test_a_run_that_was_stopped_says_how_far_it_got(tmp_path: Path) -> None:
    """Its page names network, data and seed, whether or not anything was measured; a plan alone was not stopped."""
    facts: dict[str, Any] = {"model": "resnet50", "data": {"name": "flowers"}, "config": {"seed": 3}}
    facts["config"] |= {"finetune": {"epochs": 2, "learning_rate": 0.03, "weight_decay": 0.0}}
    stages = ({}, {"dense/acc1_percent": 90.0}, {"pruned/acc1_percent": 80.0}, {"finetuned/acc1_percent": 85.0})
    places = ("its start", "the dense network", "the small network before fine-tuning")
    for number, metrics in enumerate(stages):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(facts))
        (folder / "metrics.json").write_text(json.dumps(metrics))
        text = write_report(folder).read_text()
        assert text.startswith("# Pruning report: resnet50 on flowers\n")
        assert "| seed | 3 |" in text
        said = re.findall(r"This run is not finished: it got as far as ([^.]+)\.", text)
        assert said == [*places[number : number + 1]]
    (tmp_path / "0" / "metrics.json").unlink()
    assert "got as far as its start" in write_report(tmp_path / "0").read_text()
    folder, _ = write_run(tmp_path / "saved", metrics={})
    (folder / "metrics.json").unlink()
    assert "not finished" not in write_report(folder).read_text()
    (folder / "metrics.json").write_text('{"dense/acc1_percent": 90.0}')
    assert "got as far as the plan" in write_report(folder).read_text()
