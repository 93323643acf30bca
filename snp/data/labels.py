"""Which labels are known without a sample being read, and are they numbers of classes?"""

from __future__ import annotations

from typing import Any, SupportsFloat, cast

from torch.utils.data import ConcatDataset, Subset, TensorDataset

__all__ = ["class_of", "doubtful", "known_labels"]


def class_of(label: object) -> int | None:
    """The whole number that a label is; None where it is none."""
    try:
        number = float(cast(SupportsFloat, label))
    except (TypeError, ValueError, RuntimeError):  # the last one of torch, for a tensor of several elements
        return None
    return int(number) if number.is_integer() else None


def doubtful(samples: Any, num_classes: int) -> list[int]:
    """The first sample whose label seems to be of no class, as a list of its number; an empty one where none does.

    Args:
        samples: a map-style data set of (input, label).
        num_classes: labels are 0 to num_classes - 1.
    """
    numbers = map(class_of, known_labels(samples))
    wrong = (index for index, number in enumerate(numbers) if number is None or not 0 <= number < num_classes)
    return [index for index in [next(wrong, len(samples))] if index < len(samples)]


def known_labels(samples: Any) -> list[Any]:
    """The label of every sample; an empty list where only reading shows them."""
    found: list[Any] = []
    if isinstance(samples, Subset):
        inner = known_labels(samples.dataset)
        found = [inner[index] for index in samples.indices] if inner else []
    elif isinstance(samples, ConcatDataset):
        found = [label for part in samples.datasets for label in known_labels(part)]
    elif isinstance(samples, TensorDataset):
        found = samples.tensors[-1].tolist() if len(samples.tensors) == 2 else []
    elif isinstance(samples, list | tuple):
        found = [pair[1] for pair in samples]
    elif getattr(samples, "target_transform", None) is None:
        found = _listed(getattr(samples, "targets", None)) or _listed(getattr(samples, "labels", None))
    return found if len(found) == len(samples) else []


def _listed(labels: Any) -> list[Any]:
    """What a list, an array or a tensor holds; an empty list of anything else."""
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    return [*plain] if isinstance(plain, list | tuple) else []
