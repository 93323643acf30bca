"""Which values of a batch are the model's inputs?  Learnt from the first batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.decoder_inputs import with_decoder_inputs
from snp.graph.sample_dimension import refuse_second_dimension
from snp.graph.shared_inputs import HOW, outputs_of, shared_places

__all__ = ["BatchForm", "by_kind", "kind_of", "numbered", "parsed"]


@dataclass(frozen=True)
class BatchForm:
    """How batches become inputs.

    Attributes:
        num_inputs: of a tuple or list so many first entries are inputs; 1 where the rest are labels.
        shared: places of tensors that belong to all samples (:attr:`snp.graph.batches.Batch.shared`).
        places: of all tensors.
        keys: names of keyword arguments in their order.
    """

    num_inputs: int
    shared: frozenset[str]
    places: tuple[str, ...]
    keys: tuple[str, ...]

    @staticmethod
    def learnt(model: nn.Module, raw: Any) -> BatchForm:
        """The form of a first batch.

        Args:
            model: in evaluation mode; it is run to see along which dimension samples lie, and of several tensors,
                which belong to all samples.
            raw: what the iterable of batches yields.

        Raises:
            ValueError: it cannot be told what the inputs are, the model does not take them, or samples do not lie
                along the first dimension.
        """
        num_inputs = _num_inputs(model, raw)
        batch = _inputs(raw, num_inputs)
        _refuse_unusable(batch, 1)
        whole = outputs_of(model, batch)  # also says what is wrong before any work is done
        shared = shared_places(model, batch, whole)
        refuse_second_dimension(model, replace(batch, shared=shared), whole)
        return BatchForm(num_inputs, shared, _tensor_places(batch), tuple(batch.kwargs))

    def batch(self, raw: Any, number: int) -> Batch:
        """A batch of this form; ``number`` counts from 1.

        Raises:
            ValueError: it is empty or sparse, or holds other inputs than the first one.
        """
        batch = replace(_inputs(raw, self.num_inputs), shared=self.shared)
        _refuse_unusable(batch, number)
        places = _tensor_places(batch)
        if sorted(places) != sorted(self.places):
            raise ValueError(
                f"batch {number} holds tensors at {', '.join(places) or 'no place'}, the first one at "
                f"{', '.join(self.places)}: give every batch the same inputs"
            )
        return replace(batch, kwargs={key: batch.kwargs[key] for key in self.keys if key in batch.kwargs})


def parsed(model: nn.Module, raws: Iterable[Any]) -> Iterator[Batch]:
    """The batches of an iterable, parsed one by one as they are asked for.

    Raises:
        ValueError: there is none, or one of them does not fit.
    """
    if isinstance(raws, (Tensor, Mapping)):
        raise ValueError(f"batches is one {type(raws).__name__}: give an iterable of batches, such as [batch]")
    iterator = (with_decoder_inputs(model, raw) for raw in raws)
    try:
        first = next(iterator)
    except StopIteration:
        raise ValueError("batches is empty: give at least one batch of inputs") from None
    form = BatchForm.learnt(model, first)
    return (form.batch(raw, number) for number, raw in enumerate(chain([first], iterator), start=1))


def by_kind(batches: Iterable[Batch]) -> list[list[Batch]]:
    """Batches that can be joined, together; kinds in the order in which they come."""
    kinds: dict[object, list[Batch]] = {}
    for batch in batches:
        kinds.setdefault(kind_of(batch), []).append(batch)
    return [*kinds.values()]


def numbered(batches: Sequence[Batch], numbers: Tensor, size: int) -> list[Batch]:
    """Samples by their numbers, counted through all batches, in batches of one kind.

    Args:
        batches: on any device.
        numbers: shape [N]; samples come in the order of the batches.
        size: of a batch at most.
    """
    found, before = list[Batch](), 0
    for batch in batches:
        inside = numbers[(numbers >= before) & (numbers < before + batch.size)].sort().values - before
        before += batch.size
        if len(inside):
            found.append(batch.picked(inside))
    return [piece for alike in by_kind(found) for piece in Batch.joined(alike).split(size)]


def kind_of(batch: Batch) -> tuple[object, ...]:
    """Batches that are equal here can be joined: same shapes but for the number of samples, same shared values."""
    found: list[object] = []
    for place, value in sorted(batch.places, key=lambda pair: pair[0]):
        if not isinstance(value, Tensor):
            found.append((place, repr(value)))
        elif place in batch.shared or value.ndim == 0:
            found.append((place, tuple(value.shape), tuple(value.flatten().tolist())))
        else:
            found.append((place, tuple(value.shape[1:])))
    return tuple(found)


def _inputs(raw: Any, num_inputs: int) -> Batch:
    if num_inputs > 1 and isinstance(raw, (tuple, list)):
        return Batch(tuple(raw[:num_inputs]))
    return Batch.of(raw)


def _tensor_places(batch: Batch) -> tuple[str, ...]:
    return tuple(place for place, value in batch.places if isinstance(value, Tensor))


def _refuse_unusable(batch: Batch, number: int) -> None:
    if batch.size == 0:
        raise ValueError(f"batch {number} holds no sample: leave empty batches out")
    for place, value in batch.places:
        if isinstance(value, Tensor) and value.layout != torch.strided:
            kind = str(value.layout).removeprefix("torch.")
            raise ValueError(
                f"batch {number} at {place} is a tensor of layout {kind}: samples are compared and picked as rows of "
                "dense tensors; give tensor.to_dense(), which the model must take, too"
            )
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"batch {number} at {place} is on the meta device, which holds no values: give samples")


def _num_inputs(model: nn.Module, raw: Any) -> int:
    """How many entries of a tuple are inputs: as many as the model must have; labels come behind them."""
    if not isinstance(raw, (tuple, list)) or not all(isinstance(entry, Tensor) for entry in raw):
        return 1
    wanted = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD,)]
    required = [parameter for parameter in wanted if parameter.default is parameter.empty]
    if len(required) > len(raw):
        names = ", ".join(parameter.name for parameter in required)
        raise ValueError(f"the model takes {names}, a batch holds {len(raw)} tensors: {HOW}")
    has_second = len(raw) > 1 and len(required) < 2 <= len(wanted)
    if has_second and raw[1].is_floating_point() and raw[1].shape == raw[0].shape:
        raise ValueError(
            f"a batch holds two tensors of shape {tuple(raw[0].shape)}: is the second one the model's "
            f"{wanted[1].name}, or what it should put out? Yield ((first, second), labels) or a mapping for the one, "
            "(inputs,) for the other"
        )
    return max(1, len(required))
