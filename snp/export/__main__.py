"""Write the network of a folder as ONNX, torch.export and int8 files, and say how right and how fast they are."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from snp.data.loading import SampleData
from snp.export.folder import ExportFolder
from snp.export.programs import export_onnx, export_program, require_packages, session_of
from snp.export.quantise import quantise
from snp.export.scores import accuracies, is_noisy, scores, table, times
from snp.graph.batches import Batch
from snp.report.stages import SMALL
from snp.run.errors import guarded

__all__ = ["main"]

_TIMED_BATCH = 8


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="snp export", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="FOLDER", help="folder of a run, or of snp.save")
    parser.add_argument("--weights", choices=SMALL, help="default: those that scored better")
    parser.add_argument("--out", type=Path, help="default: FOLDER/export")
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx, too")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples for --int8 (default: 128)")
    parser.add_argument("--test-samples", type=int, default=1000, help="images to score on, 0 for none (default: 1000)")
    parser.add_argument("--input-shape", help="of one sample, as 3,224,224, where the folder does not know")
    return parser.parse_args(words)


@guarded
def main(words: list[str] | None = None) -> None:
    """Write model.pt2 and model.onnx, checked, and model.int8.onnx if asked for; then compare them."""
    options = options_of(words)
    require_packages()
    folder = ExportFolder(options.run_dir)
    for name, least in (("samples", 1), ("test_samples", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, found {getattr(options, name)}")
    weights = folder.weights(options.weights)
    example, model = folder.example(options.input_shape), folder.network(weights)
    data = folder.data()
    out: Path = options.out or folder.path / "export"
    out.mkdir(parents=True, exist_ok=True)
    export_program(model, example, out / "model.pt2")
    print(f"{out / 'model.pt2'}: torch.export program of the {weights} network")
    difference = export_onnx(model, example, out / "model.onnx")
    print(f"{out / 'model.onnx'}: ONNX Runtime differs by {difference:.1e} of the largest output")
    files = {weights: out / "model.onnx"}
    if options.int8:
        files["int8"] = out / "model.int8.onnx"
        quantise(files[weights], files["int8"], _calibration(data, folder, options.samples))
        print(f"{files['int8']}: int8, {options.samples} calibration samples")
    _compare(folder, files, data, example, options.test_samples)


def _compare(folder: ExportFolder, files: dict[str, Path], data: SampleData | None, example: Tensor, most: int) -> None:
    """Print accuracy and time of dense, pruned and int8 networks, and leave them in ``scores.json``."""
    with tempfile.TemporaryDirectory() as temporary:
        dense, knows_dense = folder.dense_network() or (None, False)
        if dense is not None:
            files = {"dense": Path(temporary) / "dense.onnx", **files}
            export_onnx(dense, example, files["dense"])
        sessions = {name: session_of(path) for name, path in files.items()}
        scored = {name: run for name, run in sessions.items() if name != "dense" or knows_dense}
        found = accuracies(scored, data.test_dataloader(), most) if data is not None and most else {}
        timed = times(sessions, Batch((example,)).repeated(_TIMED_BATCH).args[0])
        rows = scores(files, found, timed)
    print(f"\n{table(rows)}")
    print(f"Times: batch {_TIMED_BATCH}, one CPU thread, ONNX Runtime, in turns.", end=" ")
    print(f"Accuracy: the first {most} test images at most." if found else "Accuracy was not measured.")
    if is_noisy(rows):
        print("The clock was noisy: these times mean little; measure again on an idle machine.")
    target = next(reversed(files.values())).with_name("scores.json")
    target.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _calibration(data: SampleData | None, folder: ExportFolder, samples: int) -> list[Tensor]:
    """Training images of the run, as in evaluation."""
    if data is None:
        raise ValueError(
            f"--int8 needs the samples of the run, and {folder.path} holds no data.json: export a run's folder"
        )
    return [images for images, _ in data.calibration_dataloader(samples, folder.seed)]


if __name__ == "__main__":
    main()
