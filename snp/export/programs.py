"""How is a network written as a file that runs without its Python code, and is it still the same function?"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snp.core.values import path_of
from snp.export.inputs import free_sizes, refused_in_double, require_batch, require_single, tried
from snp.graph.caches import remedy_of_cache

__all__ = [
    "BATCH_NAME",
    "INPUT_NAME",
    "LENGTH_NAME",
    "TOLERANCE",
    "export_onnx",
    "export_program",
    "largest_difference",
    "require_packages",
]

TOLERANCE = 1e-4  # largest difference of an output over the largest output
INPUT_NAME, BATCH_NAME, LENGTH_NAME = "input", "batch", "length"
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_packages() -> None:
    """Raise a ValueError that says what to install where a package is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"export needs {', '.join(missing)}: pip install 'snp[export]'")


def export_program(model: nn.Module, example: Tensor, path: Path | str) -> torch.export.ExportedProgram:
    """Write a ``torch.export`` program (``.pt2``) with a free batch size, and check what it computes.

    Args:
        model: in evaluation mode, on the CPU; takes one tensor.
        example: inputs, shape [N, ...], N >= 2; of whole numbers, as tokens [N, T], the length is free, too, unless the
            network holds for one only.
        path: of the file.

    Returns:
        The program.

    Raises:
        ValueError: the network cannot be exported, or the program read back computes something else.
    """
    require_batch(model, example)
    path = Path(path_of(path, "path"))
    with _refusal(model, "torch.export"), quiet(), torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=(free_sizes(example),))
        torch.export.save(program, path)
        again = torch.export.load(path)
    batches = tried(model, example, program)
    _require_same(model, lambda inputs: first_output(again.module()(inputs)), batches, path)
    return program


def export_onnx(model: nn.Module, example: Tensor, path: Path | str) -> float:
    """Write an ONNX file with a free batch size and compare it with the network in ONNX Runtime.

    Args:
        model: in evaluation mode and single precision, or double where ONNX Runtime has the kernels, on the CPU; takes
            one tensor.
        example: inputs, shape [N, ...], N >= 2.
        path: of the file.

    Returns:
        The largest difference of an output over the largest output of the network, at most :data:`TOLERANCE`.

    Raises:
        ValueError: packages are missing, the network cannot be exported, or ONNX Runtime cannot run the file, or
            computes something else.
    """
    require_packages()
    require_batch(model, example)
    is_double, path = require_single(model, example), Path(path_of(path, "path"))
    try:
        return _written(model, example, path)
    except ValueError as error:
        if not is_double:
            raise
        path.unlink(missing_ok=True)
        raise refused_in_double(error) from error


def _written(model: nn.Module, example: Tensor, path: Path) -> float:
    with _refusal(model, "ONNX export"), quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=["output"],
            dynamic_shapes=(free_sizes(example),),
            verbose=False,
        )
        assert program is not None
        _name_free_sizes(program.model)
        program.save(path)
    assert program.exported_program is not None
    batches = tried(model, example, program.exported_program)
    with _refusal(model, f"reading {path.name} back"):
        run = session_of(path)
    return _require_same(model, run, batches, path)


def _name_free_sizes(model: Any) -> None:
    """Call the free batch size ``batch``, and a free length ``length``, wherever the exporter made up names."""
    sizes = [getattr(size, "value", None) for size in model.graph.inputs[0].shape[:2]]
    # One that is a number belongs to an architecture of that size only.
    names = {made_up: name for made_up, name in zip(sizes, (BATCH_NAME, LENGTH_NAME), strict=False) if made_up}
    for value in (*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)):
        if value.shape is not None:
            for place, size in enumerate(value.shape):
                if (made_up := getattr(size, "value", None)) in names:
                    value.shape[place] = names[made_up]


def session_of(path: Path, num_threads: int = 1) -> Any:
    """A function from inputs to the first output, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4  # errors are raised, and need not be printed, too
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted value, 0 or more."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def first_output(outputs: Any) -> Tensor:
    """The first tensor of what a network gives."""
    while not isinstance(outputs, Tensor):
        outputs = next(iter(outputs.values())) if hasattr(outputs, "values") else outputs[0]
    return outputs


def _require_same(model: nn.Module, run: Any, batches: list[Tensor], path: Path) -> float:
    """The largest difference on all inputs."""
    worst = 0.0
    for inputs in batches:
        with torch.no_grad(), _refusal(model, f"a pass of {path.name}"):
            worst = max(worst, largest_difference(run(inputs), first_output(model(inputs))))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"{path.name} computes something else than {type(model).__name__}: outputs differ by {worst:.1e}"
        )
    return worst


@contextmanager
def _refusal(model: nn.Module, what: str) -> Iterator[None]:
    """Turn whatever an exporter raises into one sentence; the cause stays attached."""
    try:
        yield
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        remedy = remedy_of_cache(error)
        said = f"{what} of {type(model).__name__} failed: {first.strip()}"
        raise ValueError(f"{said}. {remedy}" if remedy else said) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own chatter on standard error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
