"""Does a sweep's summary say what its runs say: means and leads seed by seed, the question, and what is not decided?"""

import json
from pathlib import Path
from typing import Any

import pytest

from snp.report.answer import answer_of, rows_of
from snp.report.leads import Lead, leads, sentences
from snp.report.outcome import headline
from snp.report.record import read_record
from snp.report.runs import read_runs
from snp.report.stages import comparison_rows, read_stages
from snp.report.summary import write_summary
from snp.run.options import question
from tests.report.browser import overflow
from tests.report.test_report import read_table, write_run


def swept(folder: Path, scores: dict[tuple[str, float, int], float], **more: Any) -> Path:
    """A sweep's folder: (ordering, target, seed) -> accuracy after pruning; names as sweeps give them."""
    for number, ((ordering, target, seed), score) in enumerate(scores.items()):
        metrics = {"dense/acc1_percent": 92.0 + seed, "pruned/acc1_percent": score, "dense/macs": 1000,
                   "pruned/macs": 1000 * target, "dense/params": 100, "pruned/params": 50, **more}  # fmt: skip
        name = f"{number}_ordering={ordering},target_macs={target},seed={seed}"
        path, plan = write_run(folder / name, metrics=metrics)
        plan["settings"] |= {"ordering": ordering, "cut": "output", "seed": seed, "target": {"macs": target}}
        (path / "plan.json").write_text(json.dumps(plan))
    return folder


# Seeds differ more than orderings do; zca is ahead in every seed at 0.3, and in two of three at 0.6.
SCORES = {
    ("zca", 0.3, 0): 71.0, ("zca", 0.3, 1): 81.0, ("zca", 0.3, 2): 76.0,
    ("random", 0.3, 0): 70.0, ("random", 0.3, 1): 79.0, ("random", 0.3, 2): 73.0,
    ("zca", 0.6, 0): 85.0, ("zca", 0.6, 1): 86.0, ("zca", 0.6, 2): 87.0,
    ("random", 0.6, 0): 84.0, ("random", 0.6, 1): 86.5, ("random", 0.6, 2): 86.0,
}  # fmt: skip


def test_leads_are_taken_seed_by_seed(tmp_path: Path) -> None:
    """A lead in all of three seeds is decided however far the seeds lie apart; one in two of them is not."""
    answer = answer_of(read_runs([swept(tmp_path, SCORES)]))
    assert (answer.along, answer.order) == ("target_macs", ["0.3", "0.6"])
    first, second = leads(answer, "pruned")
    assert first == Lead("0.3", "ordering=zca", "ordering=random", pytest.approx(2.0), 3, 3)
    assert second == Lead("0.6", "ordering=zca", "ordering=random", pytest.approx(0.5), 2, 3)
    assert (first.is_decided, second.is_decided) == (True, False)
    fewer = answer_of(read_runs([swept(tmp_path / "two", {key: value for key, value in SCORES.items() if key[2] < 2})]))
    assert not leads(fewer, "pruned")[0].is_decided


def test_a_setting_with_fewer_seeds_is_ranked_by_those_that_all_have(tmp_path: Path) -> None:
    """What failed in the hard seeds is not ahead for it; without a common seed nothing is, and that is said."""
    easy, hard = ("zca", 0.5, 0), ("zca", 0.5, 1)
    fewer = {easy: 50.0, hard: 42.0, ("zca", 0.5, 2): 31.0, ("random", 0.5, 0): 45.0}
    folder = swept(tmp_path / "fewer", fewer)
    assert leads(answer_of(read_runs([folder])), "pruned") == [Lead("all runs", "zca", "random", 5.0, 1, 1)]
    folder = swept(tmp_path / "none", {hard: 42.0, ("random", 0.5, 0): 45.0})
    assert sentences(answer_of(read_runs([folder]))) == [
        "pruned, ordering: there is no seed that all settings have a run of, so none is ahead"
    ]


def test_the_same_run_again_counts_and_is_no_other_seed(tmp_path: Path) -> None:
    """Both runs of a setting and seed are in its mean; together they are one seed."""
    scores = {("zca", 0.5, 0): 50.0, ("random", 0.5, 0): 40.0, ("zca", 0.5, 1): 46.0, ("random", 0.5, 1): 47.0}
    swept(tmp_path / "first", scores)
    swept(tmp_path / "again", {("zca", 0.5, 0): 54.0})
    answer = answer_of(read_runs([tmp_path / "first", tmp_path / "again"]))
    assert list(rows_of(answer.stages["pruned"], answer.order)) == [
        ("all runs", "random", 43.5, 40.0, 47.0, 2), ("all runs", "zca", 50.0, 46.0, 54.0, 3),
    ]  # fmt: skip
    assert leads(answer, "pruned") == [Lead("all runs", "zca", "random", 5.5, 1, 2)]


@pytest.mark.parametrize(
    ("pairs", "seeds"),
    [
        (((0, 0), (1, 0), (2, 0)), ("0", "1", "2")),
        (((4, 0), (4, 1), (4, 2)), ("0", "1", "2")),
        (((0, 0), (0, 1), (1, 0)), ("0, prune.seed=0", "0, prune.seed=1", "1, prune.seed=0")),
    ],
)
def test_a_prune_may_have_a_seed_of_its_own(
    tmp_path: Path, pairs: tuple[tuple[int, int], ...], seeds: tuple[str, ...]
) -> None:
    """The seed is the run's, and no run takes another one's place; the prune's tells apart what has the same."""
    for number, (seed, own) in enumerate(pairs):
        folder = swept(tmp_path / str(number), {("zca", 0.5, own): 50.0 + number, ("random", 0.5, own): 40.0})
        for path in folder.iterdir():
            (path / "run.json").write_text(json.dumps({"config": {"seed": seed}}))
    runs = read_runs([tmp_path / str(number) for number in range(3)])
    assert [runs.seeds[record.folder] for record in runs.records[::2]] == list(seeds)
    assert [record.seed for record in runs.records[::2]] == [seed for seed, _ in pairs]
    assert leads(answer_of(runs), "pruned") == [Lead("all runs", "zca", "random", 11.0, 3, 3)]
    assert runs.lines == ["order zca", "order random"]
    alone = answer_of(read_runs([record.folder for record in runs.records[::2]]))
    assert (alone.along, alone.order) == ("seed", list(seeds))


def test_the_best_perplexity_is_the_lowest(tmp_path: Path) -> None:
    """Leads point down where less is better."""
    for number, (ordering, value) in enumerate((("zca", 20.0), ("random", 30.0))):
        path, plan = write_run(tmp_path / str(number), metrics={"pruned/perplexity": value, "pruned/macs": 5})
        plan["settings"] |= {"ordering": ordering, "cut": "output", "seed": 0, "target": {"macs": 0.5}}
        (path / "plan.json").write_text(json.dumps(plan))
    (lead,) = leads(answer_of(read_runs([tmp_path])), "pruned")
    assert (lead.best, lead.other, lead.lead) == ("zca", "random", 10.0)


def test_a_sweep_of_seeds_alone_has_an_answer(tmp_path: Path) -> None:
    """Their scores; nothing is ahead of anything."""
    folder = swept(tmp_path, {("zca", 0.3, seed): 70.0 + seed for seed in range(4)})
    page, said = write_summary(folder)
    assert said == []
    rows = read_table(folder / "answer.csv")
    assert [(row["seed"], float(row["mean"])) for row in rows] == [(str(seed), 70.0 + seed) for seed in range(4)]
    assert (folder / "answer.png").stat().st_size > 5000
    assert "4 seeds" in page.read_text()


def test_the_summary_of_a_sweep(tmp_path: Path) -> None:
    """The question is the title, the answer comes first; runs stand in their order, and fit a phone."""
    folder = swept(tmp_path / "sweep", SCORES)
    page, said = write_summary(folder, "Which <order>?")
    text = page.read_text()
    body = text[text.index("<main>") :]
    assert "<h1>Which &lt;order&gt;?</h1>" in body
    assert body.index("The answer") < body.index("Score against cost")
    assert said[0].endswith("best ordering=zca, 2.00 before ordering=random, ahead in 3 of 3 seeds")
    assert said[1].endswith("ahead in 2 of 3 seeds (not decided)")
    assert [row["run"].split("_")[0] for row in read_table(folder / "summary.csv")] == [str(n) for n in range(12)]
    means = {(row["line"], row["target_macs"]): float(row["mean"]) for row in read_table(folder / "answer.csv")}
    assert means["ordering=random", "0.3"] == pytest.approx(74.0)
    assert overflow(page, tmp_path, 390) <= 0


def test_every_experiment_has_its_question() -> None:
    """The title of its page is the first sentence of its file."""
    assert question("ratios") == "How much accuracy is left at which share of the MACs?"
    assert question("nothing") == ""


def test_times_of_a_noisy_clock_are_not_told(tmp_path: Path) -> None:
    """No share of the time in headline, table or front, where half of the passes lie far apart."""
    noisy = {"latency/measured_share": 2.6, "latency/measured_share_low": 0.3, "latency/measured_share_high": 3.0,
             "latency/dense_ms": 2.0, "latency/pruned_ms": 5.2, "latency/batch": 8}  # fmt: skip
    folder = swept(tmp_path / "noisy", {("zca", 0.3, 0): 70.0, ("zca", 0.3, 1): 71.0}, **noisy)
    runs = read_runs([folder])
    assert runs.cells[0].share("latency") is None
    record = read_record(runs.records[0].folder)
    said = headline(record)
    assert said is not None
    assert "time" not in said.text
    (row,) = (row for row in comparison_rows(read_stages(record.metrics), True) if row[0].startswith("Latency"))
    assert row == ["Latency in turns (ms)", "2.00", "5.20 (noisy clock)"]
    calm = noisy | {"latency/measured_share_low": 2.5, "latency/measured_share_high": 2.7}
    folder = swept(tmp_path / "calm", {("zca", 0.3, 0): 70.0, ("zca", 0.3, 1): 71.0}, **calm)
    assert read_runs([folder]).cells[0].share("latency").mean == pytest.approx(260)  # type: ignore[union-attr]


def test_what_has_no_small_network_is_left_out_and_named(tmp_path: Path) -> None:
    """Runs that stopped early spoil neither settings nor seeds; where all did, there is no page."""
    folder = swept(tmp_path, {("zca", 0.3, 0): 70.0, ("zca", 0.3, 1): 71.0})
    facts = {"model": "resnet18", "config": {"seed": 7, "finetune": {"epochs": 1}}}
    for name, metrics in (("2_scored", {"dense/acc1_percent": 93.0, "dense/params": 100}), ("3_begun", None)):
        (folder / name).mkdir()
        (folder / name / "run.json").write_text(json.dumps(facts))
        if metrics:
            (folder / name / "metrics.json").write_text(json.dumps(metrics))
    text = write_summary(folder)[0].read_text()
    text = text[text.index("<main>") :]
    assert "2 runs of resnet18; 1 setting, seeds 0, 1." in text
    assert "Not finished: <code>2_scored</code> (got as far as the dense network), <code>3_begun</code> (got" in text
    assert [row["seed"] for row in read_table(folder / "summary.csv")] == ["0", "1"]
    assert len(read_table(folder / "summary.csv")[0]) < 30
    with pytest.raises(ValueError, match=r"no run has got as far as a pruned network: `2_scored` \(got as far as the"):
        read_runs([folder / "2_scored", folder / "3_begun"])


@pytest.mark.parametrize("num_runs", [2, 24])
def test_long_names_have_room(tmp_path: Path, num_runs: int) -> None:
    """Runs that differ in more settings than a legend holds: without a warning of figures that were not laid out."""
    for number in range(num_runs):
        path, plan = write_run(tmp_path / str(number))
        plan["settings"] |= {f"setting_{place}": number + place for place in range(60)} | {"target": {"macs": 0.5}}
        (path / "plan.json").write_text(json.dumps(plan))
    write_summary(tmp_path)
    lines = {row["line"] for row in read_table(tmp_path / "answer.csv")}
    assert len(lines) == num_runs
    assert all(line.endswith(f"setting_59={59 + number}") for number, line in enumerate(sorted(lines, key=_last)))


def _last(line: str) -> int:
    return int(line.rpartition("=")[2])
