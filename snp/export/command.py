"""Which files are written of a folder's network, and how right and how fast are they?"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from dataclasses import asdict, astuple
from pathlib import Path

from torch import Tensor

from snp.core.files import write_whole
from snp.data.loading import SampleData
from snp.export.dense import dense_network
from snp.export.folder import ExportFolder
from snp.export.int8 import quantise
from snp.export.programs import export_onnx, export_program, require_packages, session_of
from snp.export.scores import accuracies, is_noisy, scores, table, times
from snp.export.text import Logits, perplexities
from snp.graph.batches import Batch
from snp.run.folder import folder_at
from snp.run.results import EXPORT_FOLDER, forget_exports

__all__ = ["write"]

_TIMED_BATCH = 8
_IMAGES, _WINDOWS = 1000, 16  # to score on


def write(options: Namespace) -> None:
    """Write model.pt2 and model.onnx, checked, and model.int8.onnx if asked for; then compare them.

    Args:
        options: of the command line.

    Raises:
        ValueError: packages are missing, the folder is none of ours, or its network cannot be exported.
    """
    require_packages()
    folder = ExportFolder(options.run_dir)
    for name, least in (("samples", 1), ("test_samples", 0)):
        if (getattr(options, name) or 0) < least and getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, found {getattr(options, name)}")
    weights, reason = astuple(folder.weights(options.weights))
    print(f"Weights: {weights}; {reason}")
    model = folder.network(weights)
    example, data = folder.example(options.input_shape, model), folder.data()
    reads_text = isinstance(model, Logits)
    if reads_text and options.int8:
        raise ValueError("--int8 is for networks that read images: leave it out for a language model")
    usual = _WINDOWS if reads_text else _IMAGES
    most = usual if options.test_samples is None else options.test_samples
    misfit = _misfit(options, data, example, most)
    out = folder_at(options.out or folder.path / EXPORT_FOLDER, "--out")
    if "model.int8.onnx" in forget_exports(out) and not options.int8:
        print(f"{out / 'model.int8.onnx'}: removed; it was of an earlier export, and --int8 makes it anew")
    export_program(model, example, out / "model.pt2")
    print(f"{out / 'model.pt2'}: torch.export program of the {weights} network")
    difference = export_onnx(model, example, out / "model.onnx")
    print(f"{out / 'model.onnx'}: ONNX Runtime differs by {difference:.1e} of the largest output")
    files = {weights: out / "model.onnx"}
    if options.int8:
        files["int8"] = out / "model.int8.onnx"
        images = _calibration(data, folder, options.samples)
        quantise(files[weights], files["int8"], images)
        print(f"{files['int8']}: int8, {sum(map(len, images))} calibration samples")
    _compare(folder, files, None if misfit else data, example, most)
    if misfit:
        print(f"Not scored on the samples of the run: {misfit}.")


def _misfit(options: Namespace, data: SampleData | None, example: Tensor, most: int) -> str | None:
    """Why files of another shape cannot read the samples of the run; None where they can, or need not.

    Raises:
        ValueError: they have to, for int8.
    """
    is_text = not example.is_floating_point()  # of any length
    if data is None or is_text or not options.input_shape or not (most or options.int8):
        return None
    data.setup("test")
    found = tuple(data.test_set[0][0].shape)
    if found == example.shape[1:]:
        return None
    asked = "x".join(map(str, example.shape[1:]))
    reason = f"its images are {'x'.join(map(str, found))} where the files read {asked}"
    if options.int8:
        raise ValueError(f"--int8 needs the samples of the run, and {reason}: leave out --input-shape")
    return reason


def _compare(folder: ExportFolder, files: dict[str, Path], data: SampleData | None, example: Tensor, most: int) -> None:
    """Print score and time of dense, pruned and int8 networks, and leave them in ``scores.json``."""
    reads_text = not example.is_floating_point()
    score, samples = (perplexities, "test windows") if reads_text else (accuracies, "test images")
    with tempfile.TemporaryDirectory() as temporary:
        dense = dense_network(folder)
        if dense is not None:
            files = {"dense": Path(temporary) / "dense.onnx", **files}
            export_onnx(dense.network, example, files["dense"])
        sessions = {name: session_of(path) for name, path in files.items()}
        scored = {name: run for name, run in sessions.items() if name != "dense" or (dense and dense.has_weights)}
        found = score(scored, data.test_dataloader(), most) if data is not None and most else {}
        timed = times(sessions, Batch((example,)).repeated(_TIMED_BATCH).args[0])
        rows = scores(files, found, timed, reads_text)
    print(f"\n{table(rows)}")
    tokens = f" of {example.shape[1]} tokens" if reads_text else ""
    print(f"Times: batch {_TIMED_BATCH}{tokens}, one CPU thread, ONNX Runtime, in turns.", end=" ")
    word = "Perplexity" if reads_text else "Accuracy"
    print(f"{word}: the first {most} {samples} at most." if found else f"{word} was not measured.")
    if dense is not None and dense.doubt:
        print(dense.doubt)
    if is_noisy(rows):
        print("The clock was noisy: these times mean little; measure again on an idle machine.")
    target = next(reversed(files.values())).with_name("scores.json")
    write_whole(target, json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _calibration(data: SampleData | None, folder: ExportFolder, samples: int) -> list[Tensor]:
    """Training images of the run, as in evaluation."""
    if data is None:
        raise ValueError(
            f"--int8 needs the samples of the run, and {folder.path} holds no data.json: export a run's folder"
        )
    return [images for images, _ in data.calibration_dataloader(samples, folder.seed)]
