"""Compare runs on one page: snp compare RUN ... --out FILE. With one folder and no file, its own page anew."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["main"]


def main(words: list[str] | None = None) -> None:
    """Write the page that the words of the command line ask for."""
    parser = argparse.ArgumentParser(prog="snp compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of runs (a sweep)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; compare.html when there are several runs")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="fronts there, too, as PNG, SVG, PDF and CSV")
    parser.add_argument("--title", default="", help="of the page")
    options = parser.parse_args(words)
    try:
        print(_written(options))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


def _written(options: argparse.Namespace) -> Path:
    """The page, once it is written."""
    # Only now, so that help answers without the seconds that figures take.
    from snp.report.compare import write_comparison
    from snp.report.fronts import draw_fronts
    from snp.report.page import write_report
    from snp.report.record import is_run
    from snp.report.runs import read_runs
    from snp.report.summary import write_summary

    is_alone = len(options.runs) == 1 and options.out is None and options.figures is None
    if is_alone and is_run(options.runs[0]):
        return write_report(options.runs[0]).with_suffix(".html")
    if left_out := read_runs(options.runs).unfinished:
        print(left_out, file=sys.stderr)
    if is_alone:
        return write_summary(options.runs[0], options.title)[0]
    page = write_comparison(options.runs, options.out or Path("compare.html"), options.title)
    if options.figures is not None:
        draw_fronts(read_runs(options.runs), options.figures / "fronts.png")
    return page


if __name__ == "__main__":
    main()
