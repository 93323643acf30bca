"""How are finished cells shown?  Markdown tables: a row for each rung, a column for each share of the MACs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import spread

from ladder.cells import Cell, cells_of
from ladder.makers import NO_BATCH_NORM
from ladder.networks import NETWORKS
from ladder.results import Results
from ladder.rungs import Rung, Table
from snp.plan.table import markdown_table

__all__ = ["markdown", "table_of"]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left, the others to the right."""
    return "\n".join(markdown_table(header, rows, words=(0,), is_padded=False))


def table_of(table: Table, network: str, seeds: Sequence[int], results: Results) -> str:
    """A network's table; rows without a finished cell, or without a norm to re-estimate, are left out."""
    rows = {rung: cells_of(network, rung, seeds) for rung in table.rungs}
    shares = sorted({cell.share for rung, cells in rows.items() if rung.maker != "dense" for cell in cells})[::-1]
    lines = [_row(rung, cells, shares, results) for rung, cells in rows.items()]
    header = ["top-1 %", *(f"{1 / share:.3g}x fewer MACs" for share in shares), "images"]
    return markdown(header, [line for line in lines if line is not None])


def _row(rung: Rung, cells: list[Cell], shares: Sequence[float], results: Results) -> list[str] | None:
    found = {cell: values for cell in cells if (values := results.find(cell.key)) is not None}
    if all(values.get("not_possible") == NO_BATCH_NORM for values in found.values()):
        return None
    if rung.maker == "dense":
        texts = [_text(list(found.values()))] * len(shares)
    else:
        texts = [_text([values for cell, values in found.items() if cell.share == share]) for share in shares]
    return [rung.name, *texts, _list({values["images"] for values in found.values() if "images" in values})]


def _list(counts: Iterable[int]) -> str:
    return " / ".join(f"{count:,}" for count in counts)


def _text(values: list[dict]) -> str:
    """Mean and spread of the seeds, or why there is nothing."""
    if not values:
        return "-"
    reasons = sorted({value["not_possible"] for value in values if "not_possible" in value})
    if reasons:
        return _short(reasons[0])
    return spread([value["acc1_percent"] for value in values])


def _short(reason: str) -> str:
    """Our own messages name a share that can be reached; others are shown as they are."""
    for words, text in (("with every group at its smallest, ", "at the least"), ("within 1%: ", "is the closest")):
        _, found, rest = reason.partition(words)
        if found:
            return f"out of reach ({rest.split(' ')[0]} of the MACs {text})"
    return reason


def about(network: str) -> str:
    """What a network is and how it is calibrated."""
    return NETWORKS[network].about
