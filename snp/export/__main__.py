"""Write the network of a folder as ONNX, torch.export and int8 files, and say how right and how fast they are."""

from __future__ import annotations

import argparse
from pathlib import Path

from snp.report.stages import SMALL
from snp.run.errors import guarded

__all__ = ["main"]


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="snp export", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="FOLDER", help="folder of a run, or of snp.save")
    parser.add_argument(
        "--weights", choices=SMALL, help="default: the latest, or earlier ones that scored clearly better"
    )
    parser.add_argument("--out", type=Path, help="default: FOLDER/export")
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx, too")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples for --int8 (default: 128)")
    parser.add_argument(
        "--test-samples", type=int, help="to score on, 0 for none (default: 1000 images, or 16 windows of text)"
    )
    parser.add_argument(
        "--input-shape", help="of one sample, as 3,224,224 (tokens: 32), where the folder does not know"
    )
    return parser.parse_args(words)


@guarded
def main(words: list[str] | None = None) -> None:
    """What the words of the command line ask for."""
    options = options_of(words)
    # Only now, so that help answers without the seconds that torch takes.
    from snp.export.command import write

    write(options)


if __name__ == "__main__":
    main()
