"""Which other views of calibration images say as much of a network?  Mirrored and shifted ones, where it agrees.

Nobody has to know what the images show: the dense network is asked. Where its outputs for mirrored images are nearly
those for the images themselves, left and right mean little to it; on digits they do, and only the images are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph.batch_form import by_kind
from snp.graph.batches import Batch
from snp.measure.objective import Objective

__all__ = ["Views", "are_images", "is_mirrored", "views_of", "with_mirrored", "without_mirrored"]

# Images move by up to so much of their side, as in the usual training on small images: 4 of 32 pixels.
_SHIFT = 8
# A view is used where it moves the outputs by less than this share of what another sample does: shifted and mirrored
# photographs do with a network that was trained on such, shifted digits do not, and tuning on them leads away.
_AGREES = 0.1
_MOST_SAMPLES = 256
# Share of the batches whose images are laid over each other, where any are.
_MIXED = 0.5


@dataclass(frozen=True)
class Views:
    """How images are shown anew in every epoch."""

    mirror: bool = False
    shift: bool = False
    mix: bool = False

    def __str__(self) -> str:
        used = {"mirrored": self.mirror, "shifted": self.shift, "half of them mixed": self.mix}
        return ", ".join(word for word, is_used in used.items() if is_used) or "as they are"

    def drawn(self, batch: Batch, generator: torch.Generator, mirrored: float = 0.5) -> Batch:
        """Every sample in a view of its own, the same for all of its images; batches are mixed whole or not at all.

        Args:
            batch: images [N, C, H, W] only, where anything is mirrored, shifted or mixed.
            generator: on the CPU.
            mirrored: share of the samples, where any are.
        """
        size = batch.size
        if self.mirror or self.shift:
            flips = torch.rand(size, generator=generator) < (mirrored if self.mirror else 0.0)
            moves = 2 * torch.rand(size, 2, generator=generator) - 1 if self.shift else torch.zeros(size, 2)
            batch = batch.mapped(lambda images: _moved(images, flips, moves))
        if self.mix and bool(torch.rand(1, generator=generator) < _MIXED):
            others, share = torch.randperm(size, generator=generator), torch.rand(size, generator=generator)
            batch = batch.mapped(lambda images: _mixed(images, others, share))
        return batch


def _mixed(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Each image laid over another one: what a network says of it is learned, not a label between two."""
    weight = share.to(images)[:, None, None, None]
    return weight * images + (1 - weight) * images[others.to(images.device)]


def _moved(images: Tensor, flips: Tensor, moves: Tensor) -> Tensor:
    """Mirrored where ``flips`` [N] says so, and moved by ``moves`` [N, 2] in [-1, 1] of the largest shift."""
    turned = torch.where(flips.to(images.device)[:, None, None, None], images.flip(3), images)
    height, width = images.shape[2:]
    most = torch.tensor([height // _SHIFT, width // _SHIFT])
    if not bool(moves.any()) or int(most.max()) == 0:
        return turned
    # Reflected borders, because nobody knows which value stands for nothing.
    padded = F.pad(turned, [int(most[1])] * 2 + [int(most[0])] * 2, mode="reflect")
    corners = (most + (moves * (most + 0.5)).round().clamp(-most, most)).long().tolist()
    parts = [
        image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack(parts)


def are_images(batch: Batch) -> bool:
    """Is everything that a sample brings an image [C, H, W] of floating numbers?"""
    tensors = [value for place, value in batch.places if isinstance(value, Tensor) and place not in batch.shared]
    return bool(tensors) and all(value.ndim == 4 and value.is_floating_point() for value in tensors)


def views_of(model: nn.Module, batches: Sequence[Batch], objective: Objective, wanted: str, seed: int) -> Views:
    """The views that tuning shows.

    Args:
        model: the dense network in evaluation mode.
        batches: calibration inputs on its device.
        objective: how far outputs are apart.
        wanted: ``both``, ``mirror``, ``shift``, ``mix`` or ``none``; ``auto`` mixes, and asks the dense network of the
            others.
        seed: of the views it is asked about.

    Raises:
        ValueError: views are asked for of inputs that are no images.
    """
    fit = all(are_images(batch) for batch in batches)
    if wanted not in ("auto", "none") and not fit:
        raise ValueError(
            f"prune.tune_views={wanted} shows images [N, C, H, W] anew, and a batch holds other inputs, too: leave it "
            "at auto, or give none"
        )
    if wanted == "auto":
        mirror, shift = (fit and _agrees(model, batches, objective, view, seed) for view in (_MIRROR, _SHIFTED))
        return Views(mirror, shift, mix=fit)
    return Views(wanted in ("both", "mirror"), wanted in ("both", "shift"), wanted == "mix")


_MIRROR, _SHIFTED = Views(mirror=True), Views(shift=True)


def is_mirrored(model: nn.Module, batches: Sequence[Batch], objective: Objective | None, wanted: bool | str) -> bool:
    """Are mirrored images calibrated on, too?

    Args:
        model: the dense network in evaluation mode.
        batches: some calibration inputs on its device.
        objective: how far outputs are apart; ``"auto"`` needs it.
        wanted: ``True`` or ``False``; ``"auto"`` asks the dense network, where inputs are images.

    Raises:
        ValueError: mirrored images are asked for and inputs are no images.
    """
    fit = all(are_images(batch) for batch in batches)
    if wanted is True and not fit:
        raise ValueError(
            "prune.mirrored=true calibrates on mirrored images [N, C, H, W], too, and a batch holds other inputs: "
            "leave it at auto, or give false"
        )
    if wanted != "auto" or not fit:
        return wanted is True
    assert objective is not None, "whoever asks the network says how its outputs are compared"
    # A sample that comes alone has no other beside it.
    joined = [Batch.joined(alike) for alike in by_kind(batches)]
    return _agrees(model, joined, objective, _MIRROR, 0)


def with_mirrored(batch: Batch) -> Batch:
    """Every image [C, H, W] of a batch, and behind each the same mirrored: they stay together where batches are split.

    What is held back of the images is then held back of the mirrored ones.
    """
    pairs = batch.picked(torch.arange(batch.size).repeat_interleave(2))
    is_second = torch.arange(pairs.size) % 2 == 1
    return pairs.mapped(
        lambda images: torch.where(is_second.to(images.device)[:, None, None, None], images.flip(3), images)
    )


def without_mirrored(batch: Batch) -> Batch:
    """The images alone; inverse of :func:`with_mirrored`."""
    return batch.picked(torch.arange(0, batch.size, 2))


def _agrees(model: nn.Module, batches: Sequence[Batch], objective: Objective, view: Views, seed: int) -> bool:
    """Does the dense network see nearly the same in a view of a sample, beside what it sees in another sample?"""
    generator = torch.Generator().manual_seed(seed)
    moved = apart = 0.0
    count = 0
    with torch.no_grad():
        for batch in batches:
            if batch.size < 2:
                continue
            order = torch.arange(batch.size).roll(1)
            outputs = [
                each.call(model) for each in (batch, view.drawn(batch, generator, mirrored=1.0), batch.picked(order))
            ]
            try:
                moved += objective.distance(outputs[0], outputs[1], batch)
                apart += objective.distance(outputs[0], outputs[2], batch)
            except ValueError:  # its output has another shape in another view: it does not see the same
                return False
            count += batch.size
            if count >= _MOST_SAMPLES:
                break
    return moved < _AGREES * apart
