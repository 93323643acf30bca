"""What is a batch, to a model?  Positional and keyword arguments, without labels; parsed once, where batches enter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.caches import keeps_cache
from snp.graph.nests import mapped_with_places, placed

__all__ = ["Batch", "device_of"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of a model for some samples.

    Attributes:
        args: positional arguments; tensors among them have the samples along their first dimension.
        kwargs: keyword arguments, likewise.
        shared: places (:func:`snp.graph.nests.placed` in ``(args, kwargs)``) of tensors that belong to all samples
            alike, such as a grid or a table; they stay whole where samples are picked.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    @staticmethod
    def of(raw: Any) -> Batch:
        """The inputs in what a data loader yields.

        Args:
            raw: a tensor is the model's input; of a tuple or list the first entry is (the rest are labels), and where
                that entry is a tuple itself it holds several inputs; a mapping holds keyword arguments, without
                ``labels``; a :class:`Batch` stays what it is.

        Raises:
            ValueError: it is something else.
        """
        if isinstance(raw, Batch):
            return raw
        inputs = raw[0] if isinstance(raw, (tuple, list)) and raw else raw
        if isinstance(inputs, Tensor):
            return Batch((inputs,))
        if isinstance(inputs, Mapping):
            return Batch((), {key: value for key, value in inputs.items() if key != "labels"})
        if isinstance(inputs, (tuple, list)) and inputs and isinstance(inputs[0], Tensor):
            return Batch(tuple(inputs))
        raise ValueError(
            "batches must yield tensors, (inputs, labels) pairs or mappings of keyword arguments; "
            f"found {type(raw).__name__}"
        )

    @staticmethod
    def all(raws: Iterable[Any]) -> list[Batch]:
        """:meth:`of` everything that a data loader yields."""
        return [Batch.of(raw) for raw in raws]

    @property
    def size(self) -> int:
        """Number of samples.

        Raises:
            ValueError: the batch holds no tensor.
        """
        for place, value in self.places:
            if isinstance(value, Tensor) and value.ndim > 0 and place not in self.shared:
                return len(value)
        raise ValueError(f"a batch must hold a tensor; found {', '.join(map(str, self.kwargs)) or 'nothing'}")

    @property
    def places(self) -> list[tuple[str, Any]]:
        """Every value with its place."""
        return placed((self.args, dict(self.kwargs)))

    @property
    def leaves(self) -> list[Any]:
        """Every value, in the order in which an exported program takes them."""
        return pytree.tree_leaves((self.args, dict(self.kwargs)))

    def call(self, model: nn.Module) -> Any:
        """The model's output."""
        return model(*self.args, **self.kwargs)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same nest of arguments with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, dict(self.kwargs)))
        return Batch(args, kwargs, self.shared)

    def _picked(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed that has samples along its first dimension."""

        def pick(place: str, value: Any) -> Any:
            is_one_per_sample = isinstance(value, Tensor) and value.ndim > 0 and place not in self.shared
            return change(value) if is_one_per_sample else value

        args, kwargs = mapped_with_places(pick, (self.args, dict(self.kwargs)))
        return Batch(args, kwargs, self.shared)

    def to(self, device: torch.device | str) -> Batch:
        """The same inputs on a device."""
        return self.mapped(lambda tensor: tensor.to(device))

    def beside(self, model: nn.Module) -> Batch:
        """The same inputs as the model takes them: on its device, and without a cache of keys and values."""
        moved = self.to(device_of(model))
        if "use_cache" in moved.kwargs or not keeps_cache(model):
            return moved
        return replace(moved, kwargs={**moved.kwargs, "use_cache": False})

    def first(self, count: int) -> Batch:
        """The first samples, at most so many."""
        return self._part(0, count)

    def last(self, count: int) -> Batch:
        """The last samples, at most so many."""
        return self._picked(lambda tensor: tensor[-count:])

    def example(self) -> Batch:
        """Two samples to learn the network from; all of them where they share tensors.

        What is computed for all samples alike costs each the less, the more they are.
        """
        return self if self.shared else self.first(2)

    def picked(self, index: Tensor) -> Batch:
        """The samples of these numbers, shape [K], int64, in that order."""
        return self._picked(lambda tensor: tensor[index.to(tensor.device)])

    def split(self, size: int) -> list[Batch]:
        """The samples in batches of one size, in order; the last may be smaller."""
        return [self._part(start, start + size) for start in range(0, self.size, size)]

    def _part(self, start: int, end: int) -> Batch:
        return self._picked(lambda tensor: tensor[start:end])

    def repeated(self, count: int) -> Batch:
        """The samples repeated in order up to a number."""
        return self.picked(torch.arange(count) % self.size)

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        """All samples in one batch; shared tensors and values that are none (switches) are the first batch's."""
        first = batches[0]

        def join(place: str, *values: Any) -> Any:
            joins = isinstance(values[0], Tensor) and values[0].ndim > 0 and place not in first.shared
            return torch.cat(values) if joins else values[0]

        # Mappings may name their entries in another order each.
        parts = [(batch.args, {key: batch.kwargs[key] for key in first.kwargs}) for batch in batches]
        args, kwargs = mapped_with_places(join, *parts)
        return Batch(args, kwargs, first.shared)

    def counted(self, shape: Sequence[int]) -> Tensor | None:
        """Which rows of an activation [..., C] are no padding, flattened; None where all are, or nobody says.

        Padding is told by attention masks among the keywords, shape [N, T], 0 at tokens that stand for nothing.

        Args:
            shape: of the activation without C: [N, T], or [N * T].
        """
        masks = [value for key, value in self.kwargs.items() if key.endswith("attention_mask") and _is_mask(value)]
        fitting = [mask for mask in masks if tuple(shape) in (tuple(mask.shape), (mask.numel(),))]
        # An encoder's and a decoder's mask of one shape: which tokens these are cannot be told.
        if not fitting or any(not torch.equal(mask, fitting[0]) for mask in fitting):
            return None
        counted = fitting[0].reshape(-1) != 0
        return None if bool(counted.all()) else counted


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a model that has none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
