"""How do several runs compare, on one page?  Fronts, spread over seeds, kept units, curves, tables, two plans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from snp.report import plots
from snp.report.differences import TITLES, plan_table, runs_table, settings_table, spread_table
from snp.report.document import Block, Figure, Page, Section, Text
from snp.report.html import to_html
from snp.report.page import write_page
from snp.report.runs import Runs, read_runs
from snp.report.speed import is_noisy
from snp.report.stages import LOWER_IS_BETTER, SMALL, counted, number

__all__ = ["subjects", "write_comparison"]

# Dense scores that are so near each other are those of the same weights on other machines.
_SAME_SCORE = 1e-3


def write_comparison(
    folders: Iterable[str | Path], out: str | Path, title: str = "", first: Sequence[Section] = ()
) -> Path:
    """Write one self-contained page that sets runs side by side.

    Args:
        folders: Of runs, or folders of run folders as sweeps leave them.
        out: The HTML file; its folder is made.
        title: Of the page.
        first: Sections above those of every comparison.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: A folder holds no run.
        ValueError: A file cannot be read, or the runs cannot be compared.
    """
    runs, path = read_runs(folders), Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_page(path, to_html(_page(runs, title, first), script=get_plotlyjs()))


def _page(runs: Runs, title: str, first: Sequence[Section]) -> Page:
    named = {network: f" ({network})" if len(runs.by_network) > 1 else "" for network in runs.by_network}
    sections = (
        _section("", _lead(runs), Text(f"{runs.notes}.") if runs.notes else None, _warning(runs)),
        *first,
        _section("Score against cost", Figure(_front_title(runs), html=plots.fronts(runs))),
        _section("Rules side by side", *(spread_table(runs, stage) for stage in SMALL)),
        _section(
            "All runs",
            Text(
                f"Scores are {TITLES[runs.score]}; costs are shares of the dense network's. A click on a title sorts."
            ),
            runs_table(runs),
            settings_table(runs),
        ),
        _section(
            "Units kept",
            *(
                _figure(f"Share of the units that stay, by run and group{whose}", plots.heat_map(runs, network))
                for network, whose in named.items()
            ),
        ),
        _section(
            "Curves by group", *(block for network, whose in named.items() for block in _curves(runs, network, whose))
        ),
        _two_plans(runs),
    )
    return Page(title or f"{counted(len(runs.records), 'run')} compared", sections)


def _two_plans(runs: Runs) -> Section:
    if len(runs.pair) != 2:
        return _section("Two plans", None)
    first, second = (runs.names[record.folder] for record in runs.pair)
    words = f"Units that `{first}` (first) and `{second}` (second) keep; `snp compare OTHER OTHER` shows two others."
    overlap = plan_table(*runs.pair)
    return _section("Two plans", Text(words) if overlap else None, overlap)


def subjects(runs: Runs) -> list[str]:
    """Networks and their data, in words."""
    return sorted({f"{record.model} on {record.data}" if record.data else record.model for record in runs.records})


def _lead(runs: Runs) -> Text:
    seeds = sorted(set(runs.seeds.values()))
    return Text(
        f"{counted(len(runs.records), 'run')} of {', '.join(subjects(runs))}; {counted(len(runs.lines), 'setting')}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}. Means stand with the smallest and the largest of their "
        "runs. Time is a pass of the pruned network over one of the dense network, measured in turns in the same "
        f"run{_noise(runs)}."
    )


def _warning(runs: Runs) -> Text | None:
    """What of these runs does not compare."""
    words = []
    if len(runs.by_network) > 1:
        words.append(
            f"These are {len(runs.by_network)} different networks ({', '.join(runs.by_network)}). Costs are shares of "
            "each run's own dense network; units and curves stand apart for each, because groups share no more than "
            "names; and only plans of one network are laid beside each other."
        )
    data = sorted({record.data for record in runs.records if record.data})
    if len(data) > 1:
        words.append(f"Scores on different data ({', '.join(data)}) do not compare.")
    words += [_start_apart(runs, network) for network in runs.by_network if _start_apart(runs, network)]
    return Text(" ".join(words)) if words else None


def _start_apart(runs: Runs, network: str) -> str:
    """What to think of runs of one network, data and seed whose dense scores differ; empty where none do."""
    scores: dict[tuple[str | None, str], list[float]] = {}
    for record in runs.by_network[network]:
        if (score := number(record.metrics, f"dense/{runs.score}")) is not None:
            scores.setdefault((record.data, runs.seeds[record.folder]), []).append(score)
    apart = [found for found in scores.values() if max(found) - min(found) > _SAME_SCORE * max(found)]
    if not apart:
        return ""
    low, high = min(map(min, apart)), max(map(max, apart))
    return (
        f"Runs of {network} with one seed do not begin with the same dense network: before anything is cut it scores "
        f"from {low:.2f} to {high:.2f}. What is left of it is then not the doing of their rules alone."
    )


def _curves(runs: Runs, network: str, whose: str) -> tuple[Figure | None, ...]:
    return (
        _figure(f"Variance lost with the first units kept{whose}", plots.curves(runs, network, "variance")),
        _figure(
            f"Predicted error at the output, where the cut looked at it{whose}", plots.curves(runs, network, "damage")
        ),
    )


def _noise(runs: Runs) -> str:
    noisy = sum(is_noisy(record.metrics) for record in runs.records)
    return f"; that of {counted(noisy, 'run')} is left out, because the clock was noisy" if noisy else ""


def _front_title(runs: Runs) -> str:
    better = "Down" if runs.score in LOWER_IS_BETTER else "Up"
    bars = "; bars span the seeds" if max(len(cell.records) for cell in runs.cells) > 1 else ""
    return f"{better} and to the left is better{bars}"


def _figure(title: str, html: str | None) -> Figure | None:
    return Figure(title, html=html) if html else None


def _section(title: str, *blocks: Block | None) -> Section:
    return Section(title, tuple(block for block in blocks if block is not None))
