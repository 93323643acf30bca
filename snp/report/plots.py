"""How do runs look side by side, in figures that answer to the pointer?  Plotly, drawn by the script in the page."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from snp.report.canvas import evenly_spaced, shorten
from snp.report.cells import Cell
from snp.report.record import Record
from snp.report.runs import COSTS, Runs
from snp.report.stages import number

__all__ = ["PALETTE", "curves", "fronts", "heat_map", "legend"]

# Okabe and Ito's colours, which colour-blind readers tell apart; the yellow one is too light for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5f6b76", "#8c564b")
_AXES = {"acc1_percent": "top-1 accuracy (%)", "perplexity": "perplexity"}
_FONT = {
    "family": 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif',
    "size": 12,
    "color": "#22303c",
}
_GRID = {"gridcolor": "#e3e8ed", "zeroline": False, "linecolor": "#aab4bd", "ticks": "outside", "automargin": True}
_STAGES = {
    "pruned": ("circle", "dash", "pruned"),
    "tuned": ("square", "dashdot", "tuned without labels"),
    "finetuned": ("diamond", "solid", "fine-tuned"),
}
MAX_RUNS = MAX_GROUPS = 16
_LOWEST = 1e-6  # on logarithmic axes; what is smaller decides nothing


def legend(runs: Runs) -> str:
    """Which colour is which line, as HTML."""
    marks = "<span>dashed, circles: pruned</span><span>solid, diamonds: fine-tuned</span>"
    if any(cell.score("tuned") for cell in runs.cells):
        marks += "<span>dash-dotted, squares: tuned without labels</span>"
    return _legend(_colours(runs), marks)


def _legend(colours: Mapping[str, str], marks: str = "") -> str:
    chips = [f'<span><i style="background:{colour}"></i>{html.escape(line)}</span>' for line, colour in colours.items()]
    return f'<p class="legend">{"".join(chips)}{marks}</p>'


def fronts(runs: Runs) -> str:
    """Score against every cost, as a share of the dense network's: one line per rule, with the spread over seeds."""
    figures = {cost: _front(runs, cost) for cost in COSTS}
    drawn = [_to_html(figure, f"front-{cost}") for cost, figure in figures.items() if figure is not None]
    return legend(runs) + f'<div class="fronts">{"".join(drawn)}</div>'


def _front(runs: Runs, cost: str) -> go.Figure | None:
    figure = go.Figure()
    for line, colour in _colours(runs).items():
        for stage in _STAGES:
            cells = [cell for cell in runs.cells if cell.line == line and cell.score(stage) and cell.share(cost)]
            if cells:
                figure.add_trace(_line(sorted(cells, key=lambda cell: cell.share(cost).mean), stage, cost, colour))  # type: ignore[union-attr]
    if not figure.data:
        return None
    for network, records in runs.by_network.items():
        dense = [value for record in records if (value := number(record.metrics, f"dense/{runs.score}")) is not None]
        if dense:
            words = "dense" if len(runs.by_network) == 1 else f"dense {html.escape(network)}"
            figure.add_trace(_dense(dense, words))
    figure.update_layout(**_layout(340), showlegend=False)
    figure.update_xaxes(title=COSTS[cost], **_GRID)
    figure.update_yaxes(title=_AXES[runs.score], **_GRID)
    return figure


def _line(cells: Sequence[Cell], stage: str, cost: str, colour: str) -> go.Scatter:
    scores, shares = [cell.score(stage) for cell in cells], [cell.share(cost) for cell in cells]
    symbol, dash, word = _STAGES[stage]
    known = [(score, share) for score, share in zip(scores, shares, strict=True) if score and share]
    words = [f"{html.escape(cell.line)}<br>{cell.target}, {word}: {cell.score(stage)}" for cell in cells]
    return go.Scatter(
        x=[share.mean for _, share in known],
        y=[score.mean for score, _ in known],
        error_y={
            "array": [score.high - score.mean for score, _ in known],
            "arrayminus": [score.mean - score.low for score, _ in known],
            "thickness": 1.2, "width": 4,
        },
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 1.6},
        marker={"symbol": symbol, "size": 9, "color": colour},
        text=words,
        hovertemplate="%{text}<br>%{x:.1f} % left<extra></extra>",
    )  # fmt: skip


def _dense(scores: Sequence[float], words: str) -> go.Scatter:
    mean = sum(scores) / len(scores)
    return go.Scatter(
        x=[100], y=[mean], mode="markers+text", text=[words], textposition="bottom left",
        marker={"symbol": "star", "size": 12, "color": "#5f6b76"}, hovertemplate=f"{words}: {mean:.2f}<extra></extra>",
    )  # fmt: skip


def heat_map(runs: Runs, network: str) -> str | None:
    """Share of units kept, runs of one network down and groups across; None where no run has a plan."""
    records = [record for record in runs.by_network[network] if record.groups]
    names = list(dict.fromkeys(group["name"] for record in records for group in record.groups))
    if not names:
        return None
    kept = [{group["name"]: (len(group["kept"]), group["num_units"]) for group in record.groups} for record in records]
    shares = [[100 * row[name][0] / row[name][1] if name in row else None for name in names] for row in kept]
    words = [["{} of {}".format(*row[name]) if name in row else "" for name in names] for row in kept]
    figure = go.Figure(
        go.Heatmap(
            z=shares, x=[shorten(name, 22) for name in names],
            y=[shorten(runs.labels[record.folder], 34) for record in records],
            text=words, customdata=[names] * len(records), zmin=0, zmax=100, colorscale="Blues", xgap=1, ygap=1,
            colorbar={"title": "", "ticksuffix": " %", "thickness": 9, "len": 0.5, "orientation": "h", "y": 1.01,
                      "yanchor": "bottom", "x": 0.5},
            hovertemplate="%{y}<br>%{customdata}: %{text} (%{z:.0f} %)<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(**_layout(170 + 26 * len(records), top=40))
    figure.update_xaxes(type="category", tickangle=-60, automargin=True, tickfont={"size": 10})
    figure.update_yaxes(type="category", autorange="reversed", automargin=True, tickfont={"size": 10})
    return _to_html(figure, f"kept-units{runs.suffix_of(network)}")


def curves(runs: Runs, network: str, kind: str) -> str | None:
    """Lost variance ("variance") or predicted damage ("damage") of a network's groups one by one, all runs together."""
    look: Mapping[str, Callable[[Record], Mapping[str, Sequence[tuple[int, float]]]]] = {
        "variance": lambda record: {
            name: [(0, 1.0), *((k, 1 - share) for k, share in c)] for name, c in record.variance.items()
        },
        "damage": lambda record: record.damage,
    }
    found = [(record, look[kind](record)) for record in runs.by_network[network]]
    found = [(record, curves) for record, curves in found if curves][:MAX_RUNS]
    names = evenly_spaced(list(dict.fromkeys(name for _, curves in found for name in curves)), MAX_GROUPS)
    if not names:
        return None
    figure, owners, colours = go.Figure(), [], _colours(runs)
    for name in names:
        for record, curves in found:
            if name in curves:
                traces = _curve(runs, record, name, curves[name], colours[runs.line_of(record)], name == names[0])
                figure.add_traces(traces)
                owners += [name] * len(traces)
    shown = {name: [{"visible": [owner == name for owner in owners]}] for name in names}
    buttons = [{"label": shorten(name, 30), "method": "update", "args": shown[name]} for name in names]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "showactive": True}
    name = f"curves-{kind}{runs.suffix_of(network)}"
    title = {"variance": "variance lost (share)", "damage": "predicted error (nats)"}[kind]
    figure.update_layout(**_layout(400, top=58), updatemenus=[menu], showlegend=False)
    figure.update_xaxes(title="units kept (dots: the cuts)", rangemode="tozero", **_GRID)
    figure.update_yaxes(title=title, type="log", dtick=1, exponentformat="power", **_GRID)
    return legend_lines(runs, [record for record, _ in found]) + _to_html(figure, name)


def legend_lines(runs: Runs, records: Sequence[Record]) -> str:
    """The lines of some runs, as HTML."""
    return _legend({(line := runs.line_of(record)): _colours(runs)[line] for record in records})


def _curve(
    runs: Runs, record: Record, name: str, curve: Sequence[tuple[int, float]], colour: str, is_shown: bool
) -> list[go.Scatter]:
    shown = [(count, value) for count, value in curve if value > _LOWEST]
    kept = next((len(group["kept"]) for group in record.groups if group["name"] == name), None)
    label = html.escape(runs.labels[record.folder])
    common: dict[str, Any] = {"visible": is_shown, "hovertemplate": f"{label}: %{{x}} kept, %{{y:.2e}}<extra></extra>"}
    line = go.Scatter(
        x=[k for k, _ in shown], y=[v for _, v in shown], mode="lines", line={"color": colour, "width": 1.4}, **common
    )
    cut = [(count, value) for count, value in shown if count == kept]
    mark = go.Scatter(
        x=[k for k, _ in cut], y=[v for _, v in cut], mode="markers", marker={"color": colour, "size": 9}, **common
    )
    return [line, mark]


def _colours(runs: Runs) -> dict[str, str]:
    return {line: PALETTE[number % len(PALETTE)] for number, line in enumerate(runs.lines)}


def _layout(height: int, top: int = 12) -> dict[str, Any]:
    return {
        "height": height, "margin": {"l": 8, "r": 8, "t": top, "b": 8}, "font": _FONT, "template": "none",
        "paper_bgcolor": "white", "plot_bgcolor": "white", "autosize": True, "hovermode": "closest",
    }  # fmt: skip


def _to_html(figure: go.Figure, name: str) -> str:
    """An empty box and the figure as JSON, which the script of the page draws into it."""
    text = str(figure.to_json()).replace("</", "<\\/")  # nothing in it ends the script
    box = f'<div id="{name}" class="plot" style="height:{figure.layout.height}px"></div>'
    return f'<div>{box}<script type="application/json" data-figure="{name}">{text}</script></div>'
