"""What does the user see when a run has ended?"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from snp.report.record import read_json
from snp.report.speed import is_noisy
from snp.report.stages import comparison_rows, counted, format_seconds, format_share, number, read_stages


def print_summary(metrics: Mapping[str, Any], run_dir: str | Path, file: TextIO | None = None) -> None:
    """Print a table of the stages side by side and, as the last line, the run folder.

    Args:
        metrics: The flat content of `metrics.json`; missing numbers show as "-".
        run_dir: The run folder.
        file: Where to print, standard output when None. Without a terminal the table is plain ASCII without colours.
    """
    out = sys.stdout if file is None else file
    # Without a terminal Rich assumes 80 columns and would cut the table of a log file.
    console = Console(file=out, highlight=False, width=None if out.isatty() else 200)
    stages = read_stages(metrics)
    if stages:
        table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII_DOUBLE_HEAD, title_justify="left")
        table.add_column("", no_wrap=True)
        for stage in stages:
            table.add_column(stage.name, justify="right", no_wrap=True)
        for row in comparison_rows(stages, is_noisy(metrics)):
            table.add_row(*row)
        console.print(table)
    else:
        print("Nothing was measured in this run.", file=out)
    for line in (*_details(metrics), *_outside_embeddings(metrics, Path(run_dir))):
        print(line, file=out)
    # Rich would break a long path into lines that cannot be copied.
    print(f"Run folder: {run_dir}", file=out, flush=True)


def _outside_embeddings(metrics: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Why the table's share of the parameters is not the one that was asked for, where it is not."""
    reached, counted = (number(metrics, f"prune/{name}") for name in ("reached", "dense_cost"))
    if metrics.get("prune/target") != "target_params" or reached is None or counted == number(metrics, "dense/params"):
        return []
    words = f"Parameters: {format_share(reached)} of those outside embeddings, as the budget counts; the table has all"
    is_untied = (read_json(run_dir / "plan.json").get("settings") or {}).get("untied")
    return [words + ", and the head, tied to its embedding before, has weights of its own now" * bool(is_untied)]


def _details(metrics: Mapping[str, Any]) -> list[str]:
    """One line of times and one of what was asked for, as far as they are known."""
    times = [
        f"{name.removeprefix('time/').removesuffix('_s')} {format_seconds(seconds)}"
        for name, seconds in metrics.items()
        if name.startswith("time/") and isinstance(seconds, int | float)
    ]
    samples, level = (metrics.get(name) for name in ("calibration/samples", "prune/threshold"))
    facts = [counted(samples, "calibration sample")] if isinstance(samples, int | float) else []
    facts += [f"level {level:.4g}"] if isinstance(level, int | float) else []
    return [f"{title}: {', '.join(parts)}" for title, parts in (("Time", times), ("Cut", facts)) if parts]
