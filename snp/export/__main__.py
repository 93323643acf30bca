"""How is the network of a run folder exported?  ``python -m snp.export RUN_DIR [--int8]``."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snp.export.programs import export_onnx, export_program, require_packages
from snp.export.quantise import quantise
from snp.library import load
from snp.run.errors import guarded


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m snp.export", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run_dir", type=Path, help="folder of a run, with plan.json and pruned.safetensors")
    parser.add_argument("--weights", choices=("pruned", "finetuned"), help="default: finetuned if there, else pruned")
    parser.add_argument("--out", type=Path, help="default: RUN_DIR/export")
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx, too")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples for --int8 (default: 128)")
    parser.add_argument(
        "--input-shape", help="of one sample, as 3,224,224: for folders that do not know, made by snp.save"
    )
    return parser.parse_args(words)


@guarded
def main(words: list[str] | None = None) -> None:
    """Write model.pt2 and model.onnx, checked, and model.int8.onnx if asked for."""
    options = options_of(words)
    require_packages()
    folder: Path = options.run_dir
    for name in ("plan.json", "pruned.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}: give the folder of a finished run")
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, found {options.samples}")
    is_tuned = (folder / "finetuned.safetensors").is_file()
    weights = options.weights or ("finetuned" if is_tuned else "pruned")
    if not (folder / f"{weights}.safetensors").is_file():
        raise ValueError(f"{folder} holds no {weights}.safetensors: the run did not fine-tune; leave out --weights")
    data = _data_of(folder)
    example = _example(options.input_shape, data)
    model = load(folder, weights=weights).eval()
    out: Path = options.out or folder / "export"
    out.mkdir(parents=True, exist_ok=True)
    export_program(model, example, out / "model.pt2")
    print(f"{out / 'model.pt2'}: torch.export program of the {weights} network")
    difference = export_onnx(model, example, out / "model.onnx")
    print(f"{out / 'model.onnx'}: ONNX Runtime differs by {difference:.1e} of the largest output")
    if options.int8:
        quantise(out / "model.onnx", out / "model.int8.onnx", _calibration(data, folder, options.samples))
        print(f"{out / 'model.int8.onnx'}: int8, {options.samples} calibration samples")


def _data_of(folder: Path) -> dict[str, Any] | None:
    """What the run noted of its samples, None where the folder is no run's."""
    path = folder / "data.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {name: found[name] for name in ("settings", "format", "seed")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _example(shape: str | None, data: dict[str, Any] | None) -> Tensor:
    if shape is not None:
        try:
            sizes = [int(word) for word in shape.split(",")]
        except ValueError:
            raise ValueError(f"--input-shape must be numbers such as 3,224,224, found {shape!r}") from None
    elif data is None:
        raise ValueError("the folder does not say which inputs its network takes: give --input-shape, as 3,224,224")
    elif "image_size" not in data["format"]:
        raise ValueError("only networks for images are exported; this run's network reads text")
    else:
        sizes = [3, data["format"]["image_size"], data["format"]["image_size"]]
    return torch.randn(4, *sizes, generator=torch.Generator().manual_seed(0))


def _calibration(data: dict[str, Any] | None, folder: Path, samples: int) -> list[Tensor]:
    """Training images of the run, as in evaluation."""
    if data is None:
        raise ValueError(f"--int8 needs the samples of the run, and {folder} holds no data.json: export a run's folder")
    settings = dict(data["settings"])
    module, _, name = str(settings.pop("_target_", "")).rpartition(".")
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    if not module.startswith("snp.data.") and (module, name) != ("snp.data", "other"):
        raise ValueError(f"{folder / 'data.json'} names no data of snp.data: {module}.{name}")
    source = getattr(importlib.import_module(module), name)(**settings)
    source.configure(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in data["format"].items()}
    )
    return [images for images, _ in source.calibration_dataloader(samples, data["seed"])]


if __name__ == "__main__":
    main()
