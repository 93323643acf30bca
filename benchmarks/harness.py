"""What do all benchmarks share?  The data folder, scoring, and a plain table that says how it came about."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snp.plan.table import markdown_table

Batches = list[tuple[Tensor, Tensor]]  # (images [N, 3, H, W], labels [N])

# How the weights that stay are fitted. "joint" is the method of the paper: one fit per layer on the dense network's
# activations, one transfer per kernel. "sequential" is what the library does when it is told nothing.
FITS: dict[str, dict[str, Any]] = {
    "joint": {"calibration": "joint", "conv_gram": "channel"},
    "sequential": {},
    "none": {"reconstruct": False, "calibration": "joint", "conv_gram": "channel"},
}
FIT_NAMES = {
    "joint": "with reconstruction (joint)",
    "sequential": "with reconstruction (sequential)",
    "none": "without reconstruction",
}

_LIBRARIES = ("snp", "torch", "torchvision", "timm")


def arguments_of(question: str) -> argparse.ArgumentParser:
    """A parser that knows ``--data``."""
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    default = os.environ.get("SNP_DATA_DIR")
    parser.add_argument("--data", type=Path, default=default, help="folder of real data, by default SNP_DATA_DIR")
    return parser


def add_fits(parser: argparse.ArgumentParser) -> None:
    """Arguments that say how weights are fitted."""
    parser.add_argument("--ridge", type=float, help="of the fit, instead of the library's own")
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))


def options_of_fit(options: argparse.Namespace, fit: str) -> dict[str, Any]:
    """Settings for one of the fits of :data:`FITS`."""
    return FITS[fit] if options.ridge is None else {**FITS[fit], "ridge": options.ridge}


def existing(path: Path | None, argument: str) -> Path:
    """The path, if it is there; else the program ends with one line."""
    if path is None:
        sys.exit(f"error: {argument} is not set: give {argument} PATH or the environment variable SNP_DATA_DIR")
    if not path.exists():
        sys.exit(f"error: {argument} {path} is not there")
    return path


@contextmanager
def of_extra(extra: str = "bench") -> Iterator[None]:
    """What is imported inside comes with an extra; where it is missing, the program ends with one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install -e '.[{extra}]'")


def in_memory(loader: Iterable[tuple[Tensor, Tensor]]) -> Batches:
    """All batches of a loader, decoded once."""
    return [(images, labels) for images, labels in loader]


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            right += int((model(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return 100 * right / total


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, smallest and largest of repeated measurements."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return f"{mean} (n=1)"
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f}, n={len(values)})"


def in_own_process(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function of a module gives, and the peak memory in MiB of a fresh process that ran nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result, peak = pool.submit(_with_peak, work, arguments).result()
    return result, peak


def _with_peak(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    result = work(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest entry, the first one to the left, the others to the right."""
    print("\n".join(markdown_table(header, rows, words=(0,))))


def _version_of(library: str) -> str:
    """A plain copy of the repository runs without being installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def print_provenance() -> None:
    """How the table can be had again: command, versions, machine. Folders are left out of the command."""
    words = [f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    for number, word in enumerate(words[1:], start=1):
        if Path(word.partition("=")[2] or word).is_absolute():
            words[number] = word.partition("=")[0] + "=PATH" if "=" in word else "PATH"
    versions = ", ".join(f"{name} {_version_of(name)}" for name in _LIBRARIES)
    print(f"command:  python {' '.join(words)}")
    print(f"versions: python {platform.python_version()}, {versions}")
    print(
        f"machine:  {platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch "
        f"threads, load {os.getloadavg()[0]:.1f}"
    )
