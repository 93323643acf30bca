"""What was decided, in a form that outlives the process?  ``plan.json``: readable, diffable, enough to cut again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snp.core.files import write_whole
from snp.graph.heads import AttentionLayer
from snp.graph.residual import ResidualBlock
from snp.plan.group_plan import GroupPlan, group_from_json, group_to_json
from snp.plan.plan_file import FORMAT, content_hash, read_text, write_text
from snp.plan.table import plan_summary, plan_table, time_sentence

__all__ = ["FORMAT", "GroupPlan", "PruningPlan"]


@dataclass(frozen=True, eq=False, repr=False)
class PruningPlan:
    """Decisions for all groups and where they came from.

    Attributes:
        groups: one decision per group that could have been cut.
        settings: what was asked for (ordering, cut, target, level found, seed, samples, ...), JSON values.
        macs: ``{"dense": n, "pruned": n}``, multiply-accumulates per sample.
        params: ``{"dense": n, "pruned": n}``.
        latency: for a latency budget: batch, threads, milliseconds and shares, predicted and measured; else empty.
        frozen: weight name -> why its units could not be cut.
        recipe: how to build the dense model again (``snp.models.build(**recipe)``), or None.
        inputs: place of each input among the model's arguments ("0", or a keyword) -> shape of one sample and dtype;
            empty where they are not plain tensors.
        versions: library name -> version.
        attention: layers whose modules keep numbers about their heads.
        removed_blocks: blocks that go as a whole; their groups are none of ``groups``.
    """

    groups: tuple[GroupPlan, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)
    params: dict[str, int] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    attention: tuple[AttentionLayer, ...] = ()
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed_blocks: tuple[ResidualBlock, ...] = ()

    def removed(self) -> dict[tuple[str, int], Tensor]:
        """Indices that go, ascending, per (tensor, dim); all groups together."""
        parts: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
        for decision in self.groups:
            for member in decision.group.members:
                parts[(member.tensor, member.dim)].append(member.index[decision.cut].reshape(-1))
        return {key: torch.cat(indices).unique() for key, indices in parts.items()}

    def blocks(self) -> dict[tuple[str, int], int]:
        """Number of blocks along the dimensions of grouped kernels over whose groups indices run."""
        members = (member for decision in self.groups for member in decision.group.members)
        return {(member.tensor, member.dim): member.num_blocks for member in members if member.num_blocks > 1}

    def with_recipe(self, recipe: dict[str, Any] | None) -> PruningPlan:
        """The same plan that knows how to build its dense model."""
        return replace(self, recipe=recipe)

    def with_inputs(self, inputs: dict[str, dict[str, Any]]) -> PruningPlan:
        """The same plan that knows what its model reads."""
        return replace(self, inputs=inputs)

    def with_latency(self, measured: dict[str, float]) -> PruningPlan:
        """The same plan with measured times beside the predicted ones."""
        return replace(self, latency=self.latency | measured)

    def to_json(self) -> str:
        """Text of ``plan.json``: one line per list of numbers."""
        plain = {
            "format": FORMAT,
            "recipe": self.recipe,
            "inputs": self.inputs,
            "settings": self.settings,
            "versions": self.versions,
            "macs": self.macs,
            "params": self.params,
            "latency": self.latency,
            "groups": [group_to_json(decision) for decision in self.groups],
            **({"removed_blocks": [block.to_json() for block in self.removed_blocks]} if self.removed_blocks else {}),
            "attention": [layer.to_json() for layer in self.attention],
            "frozen": [{"name": name, "reason": reason} for name, reason in self.frozen.items()],
        }
        return write_text(plain)

    @property
    def mark(self) -> str:
        """Hash of what was decided and asked for: weights that were made by a plan carry it."""
        parts = [group_to_json(entry) for entry in self.groups], [entry.to_json() for entry in self.attention]
        blocks = [block.to_json() for block in self.removed_blocks]
        return content_hash([*parts, self.settings, self.macs, self.params, *([blocks] if blocks else [])])[:16]

    @staticmethod
    def from_json(text: str) -> PruningPlan:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: the text is not a plan of this format.
        """
        try:
            plain = read_text(text)
            return PruningPlan(
                groups=tuple(group_from_json(entry) for entry in plain["groups"]),
                attention=tuple(AttentionLayer.from_json(entry) for entry in plain.get("attention", [])),
                frozen={entry["name"]: entry["reason"] for entry in plain["frozen"]},
                latency=plain.get("latency", {}),  # earlier plans know none
                inputs=plain.get("inputs", {}),
                removed_blocks=tuple(ResidualBlock.from_json(entry) for entry in plain.get("removed_blocks", [])),
                **{key: plain[key] for key in ("settings", "macs", "params", "recipe", "versions")},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"plan.json is damaged or not a plan: {type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        """A table of the groups, for terminals and as Markdown, and the time of a pass where that was measured."""
        table = plan_table(self._summary, self.groups, self.frozen, [block.name for block in self.removed_blocks])
        sentence = time_sentence(self.latency)
        return f"{table}\n{sentence}\n" if sentence else table

    def __repr__(self) -> str:
        return f"Plan({self._summary})"

    @property
    def _summary(self) -> str:
        return plan_summary(self.groups, self.macs, self.params, [block.name for block in self.removed_blocks])

    def save(self, path: Path) -> None:
        """Write ``plan.json``; a half-written file never takes the place of a whole one."""
        write_whole(path, self.to_json())

    @staticmethod
    def load(path: Path) -> PruningPlan:
        """Read ``plan.json``.

        Raises:
            ValueError: there is no such file, or it is not a plan.
        """
        if not path.is_file():
            raise ValueError(f"there is no plan at {path}: name the folder of a finished run")
        try:
            return PruningPlan.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is damaged or not a plan: its bytes are no text in UTF-8") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
