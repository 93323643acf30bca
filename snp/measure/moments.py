"""How do the inputs of layers become moments while the network runs?"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.graph.batches import Batch
from snp.measure.exact import exact_products
from snp.measure.readers import Reader
from snp.measure.taps import Taps

__all__ = ["MomentCollector"]


class MomentCollector:
    """Sums the moments of readers' inputs over every forward pass inside the ``with`` block.

    Readers that get the very same tensor (the branches of a block) share one product.
    """

    def __init__(
        self, model: nn.Module, readers: Mapping[str, Reader], product_dtype: torch.dtype = torch.float64
    ) -> None:
        self._model, self._readers = model, readers
        self._product_dtype = product_dtype
        self._taps = Taps(model, readers, before=self._add)
        self._latest: tuple[tuple[Any, ...], Tensor, Moments] | None = None
        self._batch: Batch | None = None
        self.moments: dict[str, Moments] = {name: Moments.zeros(r.num_columns) for name, r in readers.items()}

    def __enter__(self) -> MomentCollector:
        self._taps.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taps.__exit__(kind, error, trace)
        self._latest = None

    def run(self, batch: Batch) -> Any:
        """The model's output for a batch whose padded tokens are no samples."""
        self._batch, self._latest = batch, None
        try:
            return batch.call(self._model)
        finally:
            self._batch = None

    def _samples(self, inputs: Tensor, reader: Reader) -> Tensor:
        samples = reader.samples(inputs)
        is_last = reader.patch is None and reader.channel_dim == -1
        counted = self._batch.counted(inputs.shape[:-1]) if self._batch is not None and is_last else None
        return samples if counted is None else samples[counted.to(samples.device)]

    def _add(self, name: str, inputs: Tensor) -> None:
        reader = self._readers[name]
        try:
            with exact_products():
                found = self._moments_of(inputs.detach(), reader)
        except ValueError as error:
            raise ValueError(f"at the inputs of layer {reader.module}: {error}") from error
        total = self.moments[name]
        if total.count == 0 and total.second.device != found.second.device:
            total = Moments.zeros(reader.num_columns, found.second.device)
        self.moments[name] = total + found

    def _moments_of(self, inputs: Tensor, reader: Reader) -> Moments:
        if inputs.is_inference():
            return Moments.of(self._samples(inputs, reader), self._product_dtype)
        # The held tensor keeps its memory alive, so the same place and version mean the same values.
        key = (inputs.data_ptr(), inputs.shape, inputs.stride(), inputs._version, reader.sampling)
        if self._latest is None or self._latest[0] != key:
            self._latest = (key, inputs, Moments.of(self._samples(inputs, reader), self._product_dtype))
        return self._latest[2]
