"""Which activations carry the same unit?  Integer labels, tied together as they meet (union-find).

Every index of every parameter dimension that units can lie on has a label. Tying labels means: these stand or fall
together. Freezing a label means: this unit cannot be removed, for the reason given.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LabelSpace", "compact", "distinct", "shared"]


def compact(*labels: Tensor) -> tuple[Tensor, ...]:
    """Labels of one shape with a single index along the dimensions along which none of them changes in memory.

    Activations carry the same labels at every sample and position: a language model's would be thousands of copies.
    """
    for dim in range(labels[0].ndim):
        if labels[0].shape[dim] > 1 and all(part.stride(dim) == 0 for part in labels):
            labels = tuple(part.narrow(dim, 0, 1) for part in labels)
    return labels


def shared(labels: Tensor) -> Tensor:
    """The same labels, with one index in memory along the dimensions along which none of them changes.

    What was put together of parts lies in memory entry by entry.
    """
    if labels.numel() < 2 or 0 in labels.stride():
        return labels
    small = labels
    for dim in range(labels.ndim):
        first = small.narrow(dim, 0, min(1, small.shape[dim]))
        if small.shape[dim] > 1 and bool((small == first).all()):
            small = first
    return small.expand(labels.shape)


def distinct(labels: Tensor) -> list[int]:
    """All labels of a tensor, once each, ascending."""
    found: list[int] = compact(labels)[0].unique().tolist()
    return found


class LabelSpace:
    """Union-find over integer labels with reasons for what is frozen."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._constants: dict[int, str] = {}
        self._frozen: dict[int, str] = {}
        self._streams: set[int] = set()
        self._blank: int | None = None
        self._joined: set[int] = set()
        self.ties_only = False  # nothing is frozen while this is set

    def new(self, count: int) -> Tensor:
        """Fresh labels, shape [count], int64."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def constant(self, shape: tuple[int, ...], reason: str) -> Tensor:
        """A tensor of one label that freezes whatever is tied to it (it never joins a component)."""
        label = int(self.new(1))
        self._constants[label] = reason
        return torch.tensor(label).expand(shape)

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the one label of values that are the same at every index, which binds nothing that it meets."""
        if self._blank is None:
            self._blank = int(self.new(1))
        return torch.tensor(self._blank).expand(shape)

    def is_blank(self, labels: Tensor) -> Tensor:
        """Which labels are blank, same shape, bool."""
        (small,) = compact(labels)
        found = torch.zeros_like(small, dtype=torch.bool) if self._blank is None else small == self._blank
        return found.expand(labels.shape)

    def are_constant(self, labels: Tensor) -> bool:
        """Does none of these labels stand for a unit, or for an element of a parameter?"""
        return all(label in self._constants for label in distinct(labels))

    def merged(self, first: Tensor, second: Tensor) -> Tensor:
        """The first labels, the second ones where those are blank (same shapes)."""
        one, other = compact(first, second)
        return torch.where(self.is_blank(one), other, one).expand(first.shape)

    def find(self, label: int) -> int:
        """Representative of a label's component."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def roots(self, labels: Tensor) -> Tensor:
        """Representatives of all labels, same shape."""
        unique, inverse = compact(labels)[0].unique(return_inverse=True)
        roots = torch.tensor([self.find(label) for label in unique.tolist()], dtype=torch.int64)
        return roots[inverse].expand(labels.shape)

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Join the components of labels at equal positions (same shapes)."""
        first, second = compact(first, second)
        differs = (first != second) & ~self.is_blank(first) & ~self.is_blank(second)
        if not bool(differs.any()):
            return
        size = len(self._parent)
        pairs = (first[differs] * size + second[differs]).unique()
        for one, other in zip((pairs // size).tolist(), (pairs % size).tolist(), strict=True):
            self._join(one, other)

    def _join(self, one: int, other: int) -> None:
        for constant, label in ((one, other), (other, one)):
            if constant in self._constants:
                if label not in self._constants and not self.ties_only:
                    self._frozen.setdefault(self.find(label), self._constants[constant])
                return
        root, child = self.find(one), self.find(other)
        if root == child:
            return
        self._parent[child] = root
        self._joined |= {root, child}
        if child in self._frozen:
            self._frozen.setdefault(root, self._frozen.pop(child))
        if child in self._streams:
            self._streams.add(root)

    def are_alone(self, labels: Tensor) -> bool:
        """Was none of these labels tied or frozen so far?"""
        return not any(label in self._joined or self.frozen_reason(label) for label in distinct(labels))

    def tie_all(self, labels: Tensor) -> None:
        """Join all labels of a tensor into one component."""
        flat = torch.tensor(distinct(labels), dtype=torch.int64)
        flat = flat[~self.is_blank(flat)]
        self.tie(flat[:-1], flat[1:])

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Keep the components of these labels from being cut; the first reason given stays."""
        if self.ties_only:
            return
        for label in distinct(labels):
            if label not in self._constants and label != self._blank:
                self._frozen.setdefault(self.find(label), reason)

    def frozen_reason(self, label: int) -> str | None:
        """Why the label's component cannot be cut, or None."""
        if label in self._constants:
            return self._constants[label]
        return self._frozen.get(self.find(label))

    def mark_stream(self, labels: Tensor) -> None:
        """Note that these labels' components are residual streams."""
        self._streams.update(self.find(label) for label in distinct(labels) if label != self._blank)

    def is_stream(self, label: int) -> bool:
        """Is the label's component a residual stream?"""
        return self.find(label) in self._streams
