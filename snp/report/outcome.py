"""What came out of a run: the headline, its numbers, and all stages side by side?"""

from __future__ import annotations

from snp.report.choice import better_stage
from snp.report.document import Figure, Table, Text, Tile, Tiles
from snp.report.intervals import wilson
from snp.report.record import Record
from snp.report.speed import in_turns, is_noisy
from snp.report.stages import (
    SCORE_WORDS,
    Stage,
    comparison_rows,
    counted,
    format_count,
    format_measure,
    format_share,
    number,
    read_stages,
    score_of,
)

__all__ = ["comparison", "figure", "headline", "tiles"]

_UNITS = {
    "macs": "multiply-accumulates",
    "params": "parameters",
    "latency": "time of a pass",
    "var": "variance of every group",
    "units": "units of every group",
}


def headline(record: Record) -> Text | None:
    """The outcome in one sentence, as far as it was measured: of the better network, first in the unit asked for."""
    metrics, stages = record.metrics, _compared(record)
    if stages is None:
        return None
    dense, best = stages["dense"], stages[better_stage(metrics) or ""]
    parts = [text for text in (_asked(record), *_shares(stages, best, is_noisy(metrics))) if text]
    kept = f"The {best.name} network needs {', '.join(parts)} of the dense one" if parts else ""
    score = score_of(metrics)
    before, after = getattr(dense, score), getattr(best, score)
    if before is None or after is None:
        return Text(f"{kept}; its {SCORE_WORDS[score]} was not compared.") if kept else None
    change = f"{after - before:+.2f} points of top-1 accuracy"
    if score == "perplexity":
        change = f"a perplexity of {after:.2f} instead of {before:.2f} ({after / before:.3f} times)"
    return Text(f"{kept}, with {change}." if kept else f"The {best.name} network has {change}.")


def _compared(record: Record) -> dict[str, Stage] | None:
    """The stages by name, where the dense network and a pruned one are among them."""
    stages = {stage.name: stage for stage in read_stages(record.metrics)}
    return stages if {"dense", better_stage(record.metrics)} <= stages.keys() else None


def _asked(record: Record) -> str:
    """The share of what was asked for, where no other line tells it."""
    reached, target = number(record.metrics, "prune/reached"), record.target
    dense = number(record.metrics, "prune/dense_cost")
    if reached is None or target is None or target[0] != "params" or dense == number(record.metrics, "dense/params"):
        return ""
    return f"{100 * reached:.0f} % of the parameters outside embeddings"


def _shares(stages: dict[str, Stage], best: Stage, has_noise: bool) -> list[str]:
    """What is left of the dense network; of time only what a calm clock said."""
    parts = []
    for measure, word in (("macs", "MACs"), ("params", "parameters"), ("latency_ms", "time")):
        # Fine-tuning changes no shapes, so its network takes the time of the pruned one.
        small = stages.get("pruned", best) if measure == "latency_ms" else best
        before, after = getattr(stages["dense"], measure), getattr(small, measure)
        if before and after is not None and not (has_noise and measure == "latency_ms"):
            parts.append(f"{100 * after / before:.0f} % of the {word}")
    return parts


def tiles(record: Record) -> Tiles | None:
    """The headline's numbers, each with how sure it is."""
    metrics, stages = record.metrics, _compared(record)
    if stages is None:
        return None
    dense, best = stages["dense"], stages[better_stage(metrics) or ""]
    found = [_score_tile(record, dense, best)]
    reached, target = number(metrics, "prune/reached"), record.target
    if reached is not None and target is not None and _asked(record):
        found.append(
            Tile("parameters outside embeddings", format_share(reached), f"{format_share(target[1])} asked for")
        )
    for measure, word in (("macs", "MACs"), ("params", "parameters"), ("size_bytes", "bytes of weights")):
        before, after = getattr(dense, measure), getattr(best, measure)
        if before and after is not None:
            detail = f"{format_count(before)} → {format_count(after)}"
            found.append(Tile(word, format_share(after / before), detail))
    share, low, high = (number(metrics, f"latency/measured_share{part}") for part in ("", "_low", "_high"))
    if share is not None:
        quartiles = (
            "" if low is None or high is None else f"quartiles {format_share(low, 0)} to {format_share(high, 0)}"
        )
        shown = "?" if is_noisy(metrics) else format_share(share)
        found.append(Tile("time, in turns", shown, f"noisy clock: {quartiles}" if shown == "?" else quartiles))
    return Tiles(tuple(tile for tile in found if tile is not None))


def _score_tile(record: Record, dense: Stage, best: Stage) -> Tile | None:
    score = score_of(record.metrics)
    before, after = getattr(dense, score), getattr(best, score)
    if after is None:
        return None
    unit = " %" if score == "acc1_percent" else ""
    detail = "" if before is None else f"dense {format_measure(score, before)}{unit}"
    tested = number(record.metrics, "test/samples")
    if tested and score == "acc1_percent":
        low, high = wilson(after, int(tested))
        detail += f"; 95 %: {low:.1f} to {high:.1f}"
    return Tile(f"{SCORE_WORDS[score]}, {best.name}", f"{format_measure(score, after)}{unit}", detail)


def comparison(record: Record) -> tuple[Table | Text, ...]:
    """All stages side by side, and how they were measured."""
    metrics, stages = record.metrics, read_stages(record.metrics)
    if not stages:
        return (Text("Nothing was measured in this run."),)
    rows = [*comparison_rows(stages, is_noisy(metrics)), *_interval_row(record, stages)]
    words = tuple(stage.name for stage in stages)
    notes = ["One MAC is two FLOPs. Percentages compare with the dense network, points with its score."]
    titles = {"calibration/text": "calibrated on", "test/text": "perplexity on", "test/second_text": "second text"}
    if named := [f"{title} `{metrics[name]}`" for name, title in titles.items() if metrics.get(name)]:
        notes.append(f"Texts: {', '.join(named)}.")
    if "tuned" in words:
        notes.append(
            "Tuned: trained on the dense network's outputs for the calibration samples, without labels; pruned: not "
            "trained after the cut."
        )
    texts = (*notes, *in_turns(metrics))
    return (Table(("", *words), rows), *(Text(text) for text in texts))


def _interval_row(record: Record, stages: list[Stage]) -> list[list[str]]:
    tested = number(record.metrics, "test/samples")
    if not tested or all(stage.acc1_percent is None for stage in stages):
        return []
    ends = [None if s.acc1_percent is None else wilson(s.acc1_percent, int(tested)) for s in stages]
    cells = ["-" if end is None else f"{end[0]:.1f} to {end[1]:.1f}" for end in ends]
    return [[f"95 % interval ({counted(tested, 'sample')})", *cells]]


def figure(path: str | None, panel: str | None) -> Figure | None:
    """The stages in one drawing."""
    if path is None:
        return None
    title = "Score against cost, with 95 % intervals; what costs the same stands side by side"
    return Figure(title, path, (panel,) if panel else ())


def target_words(record: Record) -> str:
    """The target as people say it: "50 % of the multiply-accumulates"."""
    if record.target is None:
        return "no target noted"
    name, value = record.target
    words = f"{100 * value:g} % of the {_UNITS.get(name, name)}"
    reached = number(record.metrics, "prune/reached")
    if _asked(record):
        words += " outside embeddings"
    return words if reached is None else f"{words}; {100 * reached:.2f} % are left"
