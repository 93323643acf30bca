"""How do the inputs of layers become moments while the network runs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.core.moment_sum import MomentSum
from snp.graph.batches import Batch
from snp.measure.exact import exact_products
from snp.measure.readers import Reader
from snp.measure.taps import Taps

__all__ = ["MomentCollector"]


class _ReadAllError(Exception):
    """The last reader was reached; nobody asks for what comes behind it."""


@dataclass(frozen=True, eq=False)
class _Read:
    """The tensor that was read last: held, so that the same place and version mean the same values."""

    key: tuple[Any, ...]
    inputs: Tensor
    name: str
    moments: Moments | None


class MomentCollector:
    """Sums the moments of readers' inputs over every forward pass inside the ``with`` block.

    Readers that get the very same tensor (the branches of a block) share one product from its second time on.
    """

    def __init__(
        self, model: nn.Module, readers: Mapping[str, Reader], product_dtype: torch.dtype = torch.float64
    ) -> None:
        self._model, self._readers, self._dtype = model, readers, product_dtype
        self._taps = Taps(model, readers, before=self._add)
        self._sums = {name: MomentSum(reader.num_columns, product_dtype) for name, reader in readers.items()}
        self._moments: dict[str, Moments] | None = None
        self._batch: Batch | None = None
        self._latest: _Read | None = None
        self._shared: set[str] = set()  # readers whose tensor others read, too
        self._order: dict[str, None] = {}  # readers as they were first read
        self._num_reads = 0
        self._reads_of: dict[object, int] = {}  # shapes of a batch -> reads of a whole pass
        self._stop_after: int | None = None

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
        with self.of_batch(batch):
            return batch.call(self._model)

    @contextmanager
    def of_batch(self, batch: Batch) -> Iterator[None]:
        """What runs inside the ``with`` block reads a batch, whose padded tokens are no samples."""
        self._batch, self._latest, self._num_reads = batch, None, 0
        try:
            yield
        finally:
            self._batch = None

    def measure(self, batch: Batch) -> None:
        """The same without output: ends with the last reader, once a whole pass on a batch of such shapes was seen."""
        shapes = tuple(leaf.shape[1:] if isinstance(leaf, Tensor) else str(leaf) for leaf in batch.leaves)
        self._stop_after = self._reads_of.get(shapes)
        try:
            self.run(batch)
            self._reads_of[shapes] = self._num_reads
        except _ReadAllError:
            pass
        finally:
            self._stop_after = None

    @property
    def moments(self) -> dict[str, Moments]:
        """Weight name -> moments of everything that was read; nothing can be added any more.

        Raises:
            ValueError: a layer read NaN or infinity; the first that did is named.
        """
        if self._moments is None:
            found = {name: self._taken(name) for name in [*self._order, *(self._sums.keys() - self._order.keys())]}
            self._moments = {name: found[name] for name in self._readers}
        return self._moments

    def _taken(self, name: str) -> Moments:
        try:
            return self._sums[name].taken()
        except ValueError as error:
            raise ValueError(f"at the inputs of layer {self._readers[name].module}: {error}") from error

    def _samples(self, inputs: Tensor, reader: Reader) -> Tensor:
        samples = reader.samples(inputs)
        if not reader.reads_tokens:
            return samples
        counted = self._batch.counted(inputs.shape[:-1]) if self._batch is not None else None
        counted = None if counted is None else counted.to(samples.device)
        scale = reader.token_scale(inputs, None if counted is None else counted.reshape(inputs.shape[:-1]))
        if scale is not None:
            samples = samples * scale.reshape(-1, 1)
        return samples if counted is None else samples[counted]

    def _add(self, name: str, inputs: Tensor) -> None:
        assert self._moments is None, "the moments were taken"
        self._order.setdefault(name)
        with exact_products():
            self._read(name, self._readers[name], inputs.detach())
        self._num_reads += 1
        if self._num_reads == self._stop_after:
            raise _ReadAllError

    def _read(self, name: str, reader: Reader, inputs: Tensor) -> None:
        if inputs.is_inference():
            self._sums[name].add(self._samples(inputs, reader))
            return
        key = (inputs.data_ptr(), inputs.shape, inputs.stride(), inputs._version, reader.sampling)
        latest = self._latest
        if latest is not None and latest.key == key:
            self._shared.add(latest.name)
            if latest.moments is not None:
                self._sums[name].add_moments(latest.moments)
                return
        moments = None
        if name in self._shared:
            own = MomentSum(reader.num_columns, self._dtype)
            own.add(self._samples(inputs, reader))
            moments = own.taken(check=False)
            self._sums[name].add_moments(moments)
        else:
            self._sums[name].add(self._samples(inputs, reader))
        if latest is None or latest.key != key:
            self._latest = _Read(key, inputs, name, moments)
