"""What was asked of a run, of which code, and on which machine?  ``run.json``, for pages and for who repeats it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.models import Prepared
from snp.models.sources.weights import state_hash
from snp.run.hidden import command, without_secrets

__all__ = ["commit", "data_facts", "given_weights", "machine", "peak_memory_bytes", "run_facts"]

_LIBRARIES = ("snp", "torch", "torchvision", "timm", "transformers", "pytorch-lightning", "hydra-core", "wandb")


def run_facts(config: Mapping[str, Any], words: Sequence[str] | None = None) -> dict[str, Any]:
    """What holds of a run before its first stage.

    Args:
        config: all settings as plain values.
        words: the command line; the one of this process when None.

    Returns:
        JSON values: ``command``, ``directory`` (that it was given in, and that relative paths start from), ``started``
        (UTC), ``commit``, ``machine``, ``versions`` and ``config``; what looks like a secret is hidden.
    """
    return {
        "command": command(sys.argv if words is None else words),
        "directory": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(Path(__file__).parent),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        "config": without_secrets(config),
    }


def data_facts(data: SampleData) -> dict[str, Any]:
    """Name and number of samples of every part of a configured data set; of text also the tokens per window."""
    found: dict[str, Any] = {"name": data.name, "holds": data.holds}
    found |= data.counts()
    if isinstance(data, TextData) and data.format is not None:
        found["context"] = data.format.context
    return found


def given_weights(prepared: Prepared) -> str | None:
    """Hash of the weights that a checkpoint or pretraining gave, before any training; None where some are random.

    Another file may come to lie under the name of a checkpoint, as that of a training that was repeated.
    """
    return state_hash(prepared.model) if prepared.weights in ("checkpoint", "pretrained") else None


def commit(folder: Path) -> str | None:
    """The commit of the code in a folder, with ``+`` behind it where files differ from it; None outside of git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPU, as far as they are known; no names of machines or people."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
    }
    if torch.cuda.is_available():
        found["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return found


def peak_memory_bytes() -> dict[str, int]:
    """The most main memory that this process has held so far, and of each GPU's memory what it has allocated."""
    found = {}
    with contextlib.suppress(ImportError):  # Windows does not count
        import resource

        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        found["memory/peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available():
        found["memory/peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
