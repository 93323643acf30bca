"""Which networks beyond image classifiers does the coverage run look at?  One file per suite: name -> builder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from harness import of_extra
from torch import nn

__all__ = ["SUITES", "Built", "builders"]

# A network in evaluation mode, and a batch of four samples as its users give it.
Built = tuple[nn.Module, Any]
SUITES = ("torchvision_dense", "transformers", "segmentation", "diffusers", "own")


def builders(suite: str) -> dict[str, Callable[[], Built]]:
    """Name -> what builds the network, with random weights from seed 0."""
    with of_extra():
        found: dict[str, Callable[[], Built]] = importlib.import_module(f"coverage_suites.of_{suite}").BUILDERS
    return found
