"""What did one run do, on one page?"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snp.report.figures import cumulative_variance, kept_units
from snp.report.speed import in_turns
from snp.report.stages import (
    SCORE_WORDS,
    comparison_rows,
    format_seconds,
    number,
    read_json,
    read_stages,
    score_of,
)
from snp.report.tradeoff import score_against_macs

TIMES = {
    "calibrate": "calibrate",
    "forward": "the same pass without measuring",
    "plan": "plan",
    "prune": "prune",
    "finetune": "fine-tune",
}
MAX_FROZEN = 20


def write_report(run_dir: str | Path) -> Path:
    """Write `report.md` and `figures/` of a run from the files in its folder.

    Reads `metrics.json`, `plan.json` and `variance.csv`; what is missing is left out of the page.

    Args:
        run_dir: The run folder.

    Returns:
        The path of `report.md`.

    Raises:
        FileNotFoundError: The folder holds neither `metrics.json` nor `plan.json`.
        ValueError: One of the files cannot be read.
    """
    folder = Path(run_dir)
    metrics, plan = read_json(folder / "metrics.json"), read_json(folder / "plan.json")
    if not metrics and not plan:
        raise FileNotFoundError(f"{folder} holds neither metrics.json nor plan.json, so there is nothing to report.")
    metrics = _counts_of_plan(plan) | metrics
    figures = _draw_figures(folder, metrics, plan)
    sections = [
        [f"# {_title(plan)}"],
        _headline(metrics),
        _comparison(metrics),
        figures.get("score_against_macs", []),
        _groups(plan, figures),
        _frozen(plan),
        _times(metrics),
        _settings(plan),
    ]
    report = folder / "report.md"
    text = "\n\n".join("\n".join(section) for section in sections if section) + "\n"
    # A reader, or a killed process, never sees half a page.
    draft = report.with_suffix(".md.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, report)
    return report


def _counts_of_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan's own MACs and parameters under their metric names, for a run that stopped before measuring."""
    measures = ("macs", "params")
    return {f"{state}/{measure}": count for measure in measures for state, count in (plan.get(measure) or {}).items()}


def _draw_figures(folder: Path, metrics: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, list[str]]:
    """Draw what the files allow; return the Markdown lines that show each figure."""
    figures, variance = folder / "figures", folder / "variance.csv"
    shown: dict[str, list[str]] = {}
    word = SCORE_WORDS[score_of(metrics)]
    if score_against_macs(metrics, figures / f"{word}_against_macs.png"):
        shown["score_against_macs"] = [f"![{word.capitalize()} against MACs](figures/{word}_against_macs.png)"]
    if plan.get("groups"):
        kept_units(plan, figures / "kept_units.png")
        shown["kept_units"] = ["![Units kept in each group](figures/kept_units.png)"]
        if variance.exists() and cumulative_variance(variance, plan, figures / "cumulative_variance.png"):
            shown["cumulative_variance"] = ["![Cumulative variance and cut](figures/cumulative_variance.png)"]
    return shown


def _title(plan: Mapping[str, Any]) -> str:
    recipe = plan.get("recipe") or {}
    arguments = recipe.get("arguments") or {}
    name = arguments.get("model_name") or (arguments.get("config") or {}).get("model_type") or recipe.get("family")
    return f"Pruning report: {name}" if name else "Pruning report"


def _headline(metrics: Mapping[str, Any]) -> list[str]:
    """Say the outcome in one sentence, as far as it was measured."""
    stages = {stage.name: stage for stage in read_stages(metrics)}
    dense, last = stages.get("dense"), stages.get("finetuned") or stages.get("pruned")
    if not dense or not last:
        return []
    parts = []
    for measure, word in (("macs", "MACs"), ("params", "parameters"), ("latency_ms", "latency")):
        # Fine-tuning changes no shapes, so its network takes the time of the pruned one.
        small = stages.get("pruned", last) if measure == "latency_ms" else last
        before, after = getattr(dense, measure), getattr(small, measure)
        if before and after is not None:
            parts.append(f"{100 * after / before:.0f} % of the {word}")
    kept = f"The {last.name} network needs {', '.join(parts)} of the dense one" if parts else ""
    score = score_of(metrics)
    before, after = getattr(dense, score), getattr(last, score)
    if before is None or after is None:
        return [f"{kept}; its {SCORE_WORDS[score]} was not compared."] if kept else []
    change = f"{after - before:+.2f} points of top-1 accuracy"
    if score == "perplexity":
        change = f"a perplexity of {after:.2f} instead of {before:.2f} ({after / before:.3f} times)"
        return [f"{kept}, with {change}." if kept else f"The {last.name} network has {change}."]
    return [f"{kept}, with {change}." if kept else f"The {last.name} network changed by {change}."]


def _comparison(metrics: Mapping[str, Any]) -> list[str]:
    stages = read_stages(metrics)
    if not stages:
        return ["Nothing was measured in this run."]
    table = _table(["", *(stage.name for stage in stages)], comparison_rows(stages))
    note = "One MAC is two FLOPs. Percentages compare with the dense network, points with its score."
    return [
        "## Dense, pruned, fine-tuned",
        "",
        *table,
        "",
        note,
        *in_turns(metrics),
        *_texts(metrics),
    ]


def _texts(metrics: Mapping[str, Any]) -> list[str]:
    """Say which text a language model was calibrated on, and which ones it was scored on."""
    titles = {"calibration/text": "calibrated on", "test/text": "perplexity on", "test/second_text": "second text"}
    named = [f"{title} `{metrics[name]}`" for name, title in titles.items() if metrics.get(name)]
    return ["", f"Texts: {', '.join(named)}."] if named else []


def _groups(plan: Mapping[str, Any], figures: Mapping[str, list[str]]) -> list[str]:
    groups = plan.get("groups") or []
    if not groups:
        return []
    num_kept, num_units = sum(len(group["kept"]) for group in groups), sum(group["num_units"] for group in groups)
    lines = ["## What was cut", "", f"{num_kept} of {num_units} units stay, in {len(groups)} groups."]
    for name in ("kept_units", "cumulative_variance"):
        if name in figures:
            lines += ["", *figures[name]]
    rows = [
        [f"`{group['name']}`", str(group["num_units"]), str(len(group["kept"])), _percent(group.get("kept_variance"))]
        for group in groups
    ]
    table = _table(["group", "units", "kept", "variance kept"], rows)
    return [*lines, "", "<details><summary>All groups</summary>", "", *table, "", "</details>"]


def _frozen(plan: Mapping[str, Any]) -> list[str]:
    frozen = plan.get("frozen") or []
    if not frozen:
        return []
    rows = [[f"`{item['name']}`", str(item["reason"])] for item in frozen[:MAX_FROZEN]]
    more = ["", f"and {len(frozen) - MAX_FROZEN} more, listed in `plan.json`."] if len(frozen) > MAX_FROZEN else []
    return ["## What could not be cut", "", *_table(["layer", "reason"], rows), *more]


def _times(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, title in TIMES.items():
        seconds = number(metrics, f"time/{name}_s")
        if seconds is not None:
            rows.append([title, format_seconds(seconds)])
    return ["## Time", "", *_table(["stage", "time"], rows)] if rows else []


def _settings(plan: Mapping[str, Any]) -> list[str]:
    rows = [[f"`{name}`", f"`{value}`"] for name, value in (plan.get("settings") or {}).items()]
    rows += [[f"{name} version", f"`{value}`"] for name, value in (plan.get("versions") or {}).items()]
    return ["## Settings", "", *_table(["setting", "value"], rows)] if rows else []


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table; numbers stand on the right, the first column on the left."""
    alignment = [":--", *["--:"] * (len(header) - 1)]
    # A pipe inside a cell would open a new column.
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [list(header), alignment, *cells]]
