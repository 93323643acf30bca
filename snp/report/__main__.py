"""Compare runs on one page: snp compare RUN ... --out FILE. With one folder and no file, its own page anew."""

from __future__ import annotations

import argparse
import sys
import tempfile
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
    out = options.out or Path("compare.html")
    if not is_alone:
        _refuse_unwritable_page(out, options.figures)
    if notes := read_runs(options.runs).notes:
        print(notes, file=sys.stderr)
    if is_alone:
        return write_summary(options.runs[0], options.title)[0]
    page = write_comparison(options.runs, out, options.title)
    if options.figures is not None:
        draw_fronts(read_runs(options.runs), options.figures / "fronts.png")
    return page


def _refuse_unwritable_page(out: Path, figures: Path | None) -> None:
    """The page and its figures can be written.

    Raises:
        ValueError: they cannot.
    """
    if out.is_dir():
        raise ValueError(f"--out={out} is a folder: give the path of the page, --out={out / 'compare.html'}")
    _refuse_unwritable(out.parent, f"--out={out}", "FILE")
    if figures is not None:
        _refuse_unwritable(figures, f"--figures={figures}", "FOLDER", make=True)


def _refuse_unwritable(folder: Path, given: str, kind: str, *, make: bool = False) -> None:
    """A file can be written into the folder, before figures are drawn for it.

    Raises:
        ValueError: none can.
    """
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:  # rights alone do not tell: some file systems take no files
            trial.write(b"x")
    except OSError as error:
        option = given.partition("=")[0]
        raise ValueError(
            f"{given}: nothing can be written into {folder.absolute()} ({error.strerror}); give another {option}={kind}"
        ) from error


if __name__ == "__main__":
    main()
