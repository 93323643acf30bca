"""How right and how fast are exported networks, side by side?  Accuracy on test images, and passes in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from snp.report.speed import NOISY_SPREAD
from snp.report.stages import format_count, format_share
from snp.speed.timing import time_in_turns

__all__ = ["Score", "accuracies", "is_noisy", "scores", "table", "times"]

_ROUNDS, _SECONDS = 11, 2.0
Session = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """One exported network.

    Attributes:
        name: "dense", "int8", or which small network it is: "pruned", "tuned" or "finetuned".
        bytes: of its file.
        accuracy: top-1, percent; None where it was not scored.
        perplexity: of a language model instead.
        milliseconds: median of a pass; None where it was not timed.
        share: median of the ratios to neighbouring passes of the dense network, with quartiles; None without one.
    """

    name: str
    bytes: int
    accuracy: float | None
    milliseconds: float | None
    share: tuple[float, float, float] | None
    perplexity: float | None = None


def accuracies(
    sessions: Mapping[str, Session], batches: Iterable[tuple[Tensor, Tensor]], most: int
) -> dict[str, float]:
    """Top-1 accuracy of each on the first test images, percent.

    Args:
        sessions: name -> function from images to logits.
        batches: images and labels.
        most: how many images at most, 1 or more.
    """
    right, seen = dict.fromkeys(sessions, 0), 0
    for images, labels in batches:
        images, labels = images[: most - seen], labels[: most - seen]
        for name, run in sessions.items():
            right[name] += int((run(images).argmax(-1) == labels).sum())
        seen += len(labels)
        if seen >= most:
            break
    return {name: 100 * count / max(seen, 1) for name, count in right.items()}


def times(
    sessions: Mapping[str, Session], example: Tensor
) -> dict[str, tuple[float, tuple[float, float, float] | None]]:
    """Milliseconds of a pass, one CPU thread, in turns; and its share of the dense network's passes beside it."""
    seconds = time_in_turns(
        {name: partial(run, example) for name, run in sessions.items()}, min_rounds=_ROUNDS, min_seconds=_SECONDS
    )
    walls = {name: torch.tensor(found.wall, dtype=torch.float64) for name, found in seconds.items()}
    quartiles = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    found: dict[str, tuple[float, tuple[float, float, float] | None]] = {}
    for name, wall in walls.items():
        share = None
        if "dense" in walls and name != "dense":
            median, low, high = (wall / walls["dense"]).quantile(quartiles).tolist()
            share = median, low, high
        found[name] = 1e3 * float(wall.median()), share
    return found


def scores(
    files: Mapping[str, Path],
    found: Mapping[str, float],
    timed: Mapping[str, tuple[float, tuple[float, float, float] | None]],
    reads_text: bool = False,
) -> list[Score]:
    """All that is known of each file; `found` are perplexities where it reads text, else accuracies."""
    rows = []
    for name, path in files.items():
        accuracy, perplexity = (None, found.get(name)) if reads_text else (found.get(name), None)
        milliseconds, share = timed.get(name, (None, None))
        rows.append(Score(name, path.stat().st_size, accuracy, milliseconds, share, perplexity))
    return rows


def is_noisy(rows: Iterable[Score]) -> bool:
    """Do the quartiles of some ratio lie so far apart that times mean little?"""
    shares = (row.share for row in rows if row.share is not None)
    return any(high - low > NOISY_SPREAD * median for median, low, high in shares)


def table(rows: Iterable[Score]) -> str:
    """Aligned text for the terminal."""
    rows = list(rows)
    score = "perplexity" if any(row.perplexity is not None for row in rows) else "top-1 %"
    lines = [("", "bytes", score, "ms", "time, share of dense (quartiles)")]
    for row in rows:
        value = row.accuracy if row.perplexity is None else row.perplexity
        accuracy = "-" if value is None else f"{value:.2f}"
        milliseconds = "-" if row.milliseconds is None else f"{row.milliseconds:.3g}"
        share = "-" if row.share is None else "{} ({} to {})".format(*(format_share(part) for part in row.share))
        lines.append((row.name, format_count(row.bytes), accuracy, milliseconds, share))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    first, *others = widths
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    )
