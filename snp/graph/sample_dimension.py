"""Do samples lie along the first dimension?  The network is asked what it gives for the last of them alone.

Not for the first of them: a recurrent layer that reads steps along that dimension gives for its first steps what it
gave for all. Only where the answer is clearly another one is the second dimension asked, the layout [T, N, C] of
PyTorch's recurrent layers and transformers; a network whose samples depend on each other fails along both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, product

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch, device_of
from snp.graph.nests import mapped_with_places
from snp.graph.shared_inputs import outputs_of
from snp.graph.wrappers import evaluated

__all__ = ["refuse_second_dimension"]

_SAME, _OTHER = 1e-3, 1e-2  # of the largest output; what lies between is rounding, or a small effect: nobody knows
_COARSER = 10  # in half precision
_MOST_WAYS = 8  # in which several tensors may be cut


def refuse_second_dimension(model: nn.Module, batch: Batch, whole: Sequence[Tensor]) -> None:
    """Networks that take [T, N, C] would be cut by costs of steps, and calibrated on parts of samples.

    Args:
        model: in evaluation mode; it is run on two samples or one, and left as it was.
        batch: the first one, with what belongs to all samples.
        whole: its outputs (:func:`snp.graph.shared_inputs.outputs_of`).

    Raises:
        ValueError: samples are independent along the second dimension, and not along the first.
    """
    if batch.size < 2 or not any(leaf.ndim for leaf in whole):
        return
    with _left_as_it_was(model):
        if _is_first(model, batch, whole) or (found := _along_second(model, batch, whole)) is None:
            return
    place, value = found
    steps, samples = value.shape[:2]
    raise ValueError(
        f"{place} {list(value.shape)} of the first batch holds {samples} samples of {steps} steps: the last ones along "
        "its second dimension give their outputs alone, too, and the last ones along the first dimension do not. "
        "Samples must lie along the first dimension of every tensor: build layers with batch_first=True, or give a "
        "module around the network that transposes its inputs and outputs (docs/extending.md shows one)"
    )


def _is_first(model: nn.Module, batch: Batch, whole: Sequence[Tensor]) -> bool:
    """Do the last samples along the first dimension give their outputs, or others that are not clearly others?"""
    size, count = batch.size, _few(batch.size)
    part = _outputs(model, batch.last(count))
    if part is None or len(part) != len(whole):
        return False
    pairs = [(mine, ends) for mine, of_all in zip(part, whole, strict=True) if (ends := _ends(of_all, size, count))]
    return bool(pairs) and all(_is_among(mine, ends, _OTHER * _coarser(model)) for mine, ends in pairs)


def _along_second(model: nn.Module, batch: Batch, whole: Sequence[Tensor]) -> tuple[str, Tensor] | None:
    """The first tensor whose samples lie along its second dimension, with its place; None where that does not hold."""
    tensors = {place: value for place, value in batch.places if isinstance(value, Tensor) and value.ndim > 0}
    sizes = dict.fromkeys(value.shape[1] for value in tensors.values() if value.ndim > 1 and value.shape[1] > 1)
    outputs = [leaf.ndim > 0 for leaf in whole]
    for size in sizes:
        count = _few(size)
        ends = [_ends(leaf, size, count) for leaf in whole]
        if not all(found or not is_any for found, is_any in zip(ends, outputs, strict=True)):
            continue
        for dims in islice(_ways(tensors, size), _MOST_WAYS):
            part = _outputs(model, _last_along(batch, dims, count))
            if part is None or len(part) != len(whole):
                continue
            pairs = zip(part, ends, outputs, strict=True)
            if all(_is_among(mine, found, _SAME * _coarser(model)) for mine, found, is_any in pairs if is_any):
                return next((place, value) for place, value in tensors.items() if dims[place] == 1)
    return None


def _few(size: int) -> int:
    """Two samples, fewer than there are."""
    return min(2, (size + 1) // 2)


def _ways(tensors: dict[str, Tensor], size: int) -> Iterator[dict[str, int | None]]:
    """Place -> dimension along which samples may lie in a tensor, None for none; one of them along the second."""
    choices: list[list[int | None]] = [
        [*[1] * (value.ndim > 1 and value.shape[1] == size), *[0] * (len(value) == size), None]
        for value in tensors.values()
    ]
    for dims in product(*choices):
        if 1 in dims:
            yield dict(zip(tensors, dims, strict=True))


def _last_along(batch: Batch, dims: dict[str, int | None], count: int) -> Batch:
    def last(place: str, value: object) -> object:
        dim = dims.get(place)
        if dim is None or not isinstance(value, Tensor):
            return value
        return value.narrow(dim, value.shape[dim] - count, count)

    args, kwargs = mapped_with_places(last, (batch.args, dict(batch.kwargs)))
    return replace(batch, args=args, kwargs=kwargs)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor] | None:
    """None where the model does not take it."""
    try:
        return outputs_of(model, batch)
    except ValueError:
        return None


def _ends(output: Tensor, size: int, count: int) -> list[Tensor]:
    """What an output holds of the last samples, by every way in which it may hold all of them."""
    if output.numel() == 0 or output.ndim == 0:
        return []
    found = [output[:, -count:]] if output.ndim > 1 and output.shape[1] == size else []
    if len(output) % size == 0:
        rows = len(output) // size  # of a sample: [N * T, K], or [T * N, K]
        found.append(output[-count * rows :])
        if rows > 1:
            found.append(output.unflatten(0, (rows, size))[:, -count:].flatten(0, 1))
    return found


def _is_among(output: Tensor, others: Sequence[Tensor], tolerance: float) -> bool:
    return any(output.shape == other.shape and _is_near(output, other, tolerance) for other in others)


def _is_near(output: Tensor, other: Tensor, tolerance: float) -> bool:
    finite = other[other.isfinite()]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(output, other, rtol=0.0, atol=tolerance * largest, equal_nan=True)


def _coarser(model: nn.Module) -> int:
    """How much more rounding there is than in single precision."""
    first = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    return _COARSER if first is not None and first.dtype in (torch.float16, torch.bfloat16) else 1


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """States that a network keeps between calls, and random numbers, are behind the ``with`` block as before it."""
    held = [(module, dict(vars(module))) for module in model.modules()]
    device = device_of(model)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluated(model):
        try:
            yield
        finally:
            for module, before in held:
                vars(module).update(before)
                for name in set(vars(module)) - set(before):
                    del vars(module)[name]
