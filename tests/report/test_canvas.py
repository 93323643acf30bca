"""Are the ticks of logarithmic axes the numbers at which they stand, and do names fit into a legend?"""

import logging
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from snp.report.canvas import Powers, legend_names, panels, save

_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def number_of(text: str) -> float:
    """What a reader takes from a tick's text."""
    factor, _, power = text.rpartition("\N{MULTIPLICATION SIGN}")
    assert power.startswith("10"), text
    return float(factor or 1) * 10.0 ** int(power[2:].translate(_DIGITS))


@pytest.mark.parametrize(("low", "high"), [(1e-12, 1e3), (0.02, 0.5), (3e4, 9e4)])
def test_a_tick_says_where_it_stands(low: float, high: float) -> None:
    """Decades, and numbers between them on a short axis; no formula is left for the renderer."""
    figure = Figure()
    axis = figure.add_subplot()
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    for kind in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        kind(Powers())
    figure.draw_without_rendering()
    ticks = [
        (place, label.get_text())
        for minor in (False, True)
        for place, label in zip(axis.get_yticks(minor=minor), axis.get_yticklabels(minor=minor), strict=True)
    ]
    named = {place: number_of(text) for place, text in ticks if text}
    assert sum(low <= place <= high for place in named) > 1
    assert all(math.isclose(place, said, rel_tol=1e-9) for place, said in named.items()), named


def test_fonts_are_not_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep whose runs had processes of their own would end with a page of it."""
    logging.getLogger("fontTools").setLevel(logging.NOTSET)
    figure, (axis,) = panels(1, 1, width=2, height=2)
    axis.plot([1, 2])
    with caplog.at_level(logging.INFO):
        assert save(figure, tmp_path / "figure.png", "A title").is_file()
    assert (tmp_path / "figure.pdf").is_file()
    assert not caplog.records


def test_names_of_a_legend() -> None:
    """Whole settings as far as they fit and how many more; lines that then look the same have numbers."""
    assert legend_names(["a=1, b=2"], 8) == ["a=1, b=2"]
    assert legend_names(["a=1, b=2, c=3", "a=2, b=2, c=3"], 8) == ["a=1, b=2 and 1 more", "a=2, b=2 and 1 more"]
    assert legend_names(["a=1, b=2, c=3", "a=1, b=2, c=4"], 8) == ["a=1, b=2 and 1 more (1)", "a=1, b=2 and 1 more (2)"]
    assert legend_names(["abcdefghijk"], 8) == ["abcdefg…"]
