"""How does Lightning get a loader that is none of its data module's own?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningDataModule

__all__ = ["OneLoader"]


class OneLoader(LightningDataModule):
    """Makes a loader when Lightning asks, after the processes have found each other.

    Args:
        make: gives a loader that shows each sample to exactly one process.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make

    def predict_dataloader(self) -> Any:
        """The loader."""
        return self._make()

    test_dataloader = predict_dataloader
