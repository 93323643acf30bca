"""What did one run do, on one page?  ``report.md`` and ``report.html`` from the files in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snp.core.files import write_whole
from snp.report.asked import asked, next_steps, resources, settings_table
from snp.report.card import model_card
from snp.report.curves import curve_panels, decision_of, draw_curves
from snp.report.cuts import cut_summary, frozen_table, group_table
from snp.report.document import Bar, Block, Figure, Notes, Page, Section
from snp.report.findings import findings
from snp.report.html import to_html
from snp.report.learning import draw_learning, learning_panels
from snp.report.markdown import to_markdown
from snp.report.outcome import comparison, figure, headline, tiles
from snp.report.record import Record, read_record
from snp.report.stages import SCORE_WORDS, score_of
from snp.report.tradeoff import draw_tradeoff, tradeoff_panel
from snp.report.widths import draw_widths, widths

__all__ = ["write_page", "write_report"]


@dataclass(frozen=True)
class _Figures:
    """What could be drawn of a run; None for the rest."""

    tradeoff: Figure | None
    widths: Figure | None
    curves: Figure | None
    learning: Figure | None


def write_report(run_dir: str | Path) -> Path:
    """Write `report.md`, `report.html`, `model_card.md` and `figures/` of a run from the files in its folder.

    What a run did not leave is left out of the page.

    Args:
        run_dir: The run folder.

    Returns:
        The path of `report.md`.

    Raises:
        FileNotFoundError: The folder holds neither `metrics.json` nor `plan.json` nor `run.json`.
        ValueError: One of the files cannot be read.
    """
    record = read_record(run_dir)
    page = _page(record, _draw(record))
    write_page(record.folder / "report.html", to_html(page))
    if record.groups:
        write_page(record.folder / "model_card.md", model_card(record))
    return write_page(record.folder / "report.md", to_markdown(page))


def write_page(path: Path, text: str) -> Path:
    """Write a page whole or not at all: a reader, or a killed process, never sees half of one."""
    write_whole(path, text)
    return path


def _page(record: Record, figures: _Figures) -> Page:
    warnings = findings(record)
    cuts: list[Block | None] = [cut_summary(record), figures.widths, figures.curves, group_table(record)]
    sections = (
        _section("", Notes(warnings) if warnings else None, headline(record), tiles(record)),
        _section("Dense, pruned, trained", *comparison(record), figures.tradeoff),
        _section("What was asked and done", asked(record)),
        _section("What was cut", *(cuts if record.groups else ())),
        _section("What could not be cut", *frozen_table(record)),
        _section("Training", figures.learning),
        _section("Time and memory", *resources(record)),
        _section("What to do next", *next_steps(record)),
        _section("Settings", settings_table(record)),
    )
    return Page(_title(record), sections)


def _section(title: str, *blocks: Block | None) -> Section:
    return Section(title, tuple(block for block in blocks if block is not None))


def _title(record: Record) -> str:
    return f"Pruning report: {record.model}" + (f" on {record.data}" if record.data else "")


def _draw(record: Record) -> _Figures:
    """Draw what the files allow."""
    folder, word = record.folder / "figures", SCORE_WORDS[score_of(record.metrics)]
    tradeoff = draw_tradeoff(record, folder / f"{word}_against_cost.png")
    bars = draw_widths(record, folder / "widths.png") if record.groups else None
    decision = decision_of(record) if record.groups else None
    curves = draw_curves(decision, folder / f"{decision.name}.png") if decision else None
    learning = draw_learning(record, folder / "training.png")
    return _Figures(
        figure(_relative(tradeoff), tradeoff_panel(record) if tradeoff else None),
        _bars(record, bars),
        Figure(decision.title, _relative(curves), curve_panels(decision)) if decision else None,
        Figure(
            "Training: blue on the training part, red on the part held out",
            _relative(learning),
            learning_panels(record),
        )
        if learning
        else None,
    )


def _bars(record: Record, path: Path | None) -> Figure | None:
    bars = tuple(Bar(row.name, row.num_kept, row.num_units, row.is_frozen) for row in widths(record))
    title = "Units of each layer: kept (blue), cut (light), left whole (grey)"
    return Figure(title, _relative(path), bars=bars) if path else None


def _relative(path: Path | None) -> str | None:
    return None if path is None else f"figures/{path.name}"
