"""Where do dimensions that units lie along become one in another order than the one that they were divided in?

A network may divide its channels into groups, exchange the two dimensions and join them again (a shuffle written by
hand). Once units are gone its code counts the groups off anew: only if the same places of every group are gone, every
unit comes out where its readers expect it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from snp.graph.tracer import Tracer

__all__ = ["tie_shuffled"]


def tie_shuffled(tracer: Tracer, shadow: Tensor, shape: tuple[int, ...]) -> None:
    """Tie the units that a reshape to ``shape`` interleaves: those at the same place of every group."""
    for dims in _joined(tuple(shadow.shape), shape):
        varying = [(dim, step) for dim in dims if (step := _step(shadow, dim))]
        for (_, outer), (dim, inner) in pairwise(varying):
            if abs(outer) < abs(inner):
                tracer.labels.tie(shadow.narrow(dim, 0, 1).expand_as(shadow), shadow)


def _step(shadow: Tensor, dim: int) -> int:
    """How far the first two labels along a dimension lie apart, 0 where there is one only."""
    if shadow.shape[dim] < 2:
        return 0
    first = [0] * shadow.ndim
    second = [int(number == dim) for number in range(shadow.ndim)]
    return int(shadow[tuple(second)] - shadow[tuple(first)])


def _joined(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[list[int]]:
    """Dimensions of the old shape that a reshape joins, or joins in part."""
    start = end = at = 0
    while start < len(old) and at < len(new):
        have, want = 1, 1
        while end < len(old) and (have == 1 or have != want):
            if have <= want:
                have, end = have * old[end], end + 1
            else:
                want, at = want * new[at], at + 1
            while have > want and at < len(new):
                want, at = want * new[at], at + 1
        yield list(range(start, end))
        start = end
