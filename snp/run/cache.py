"""What can be taken over from an earlier run?  Dense weights and scores, and moments, if they are of the same facts."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.core.deciding import Purpose, trainer_facts
from snp.core.files import write_whole
from snp.core.foreign import code_of
from snp.core.gram import Moments
from snp.data.contents import contents_of
from snp.data.loading import SampleData
from snp.models.sources.weights import fingerprint, is_whole, read_metadata, read_weights, write_weights
from snp.plan.latency_table import LatencyTable
from snp.run.calibrate import CalibrationSettings, read_moments, write_moments
from snp.run.folder import log
from snp.run.processes import agreed
from snp.run.training.recipe import TrainingRecipe
from snp.speed.layers import device_name
from snp.speed.passes import Conditions
from snp.surgery.subject import Subject

__all__ = ["Cache"]

Measured = tuple[dict[str, Moments], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Cache:
    """A folder with ``dense-<mark>`` and ``moments-<mark>.safetensors``, ``scores-<mark>`` and ``latency-<mark>.json``.

    The mark is a hash of all that an entry depends on, so that runs of different settings share a folder and none
    overwrites what belongs to another.

    Attributes:
        folder: may be shared by runs.
        data: configured for the network.
        data_settings: plain values that say which samples these are.
        seed: of the run.
        precision: of the trainer; activations are not the same in another.
        trainer: its options, and how many ``processes`` it has.
        family: hash of the file that builds the network, where it is another package's.
    """

    folder: Path
    data: SampleData
    data_settings: Mapping[str, Any]
    seed: int
    precision: str
    trainer: Mapping[str, Any] = field(default_factory=dict)
    family: tuple[str, ...] = ()

    def dense_weights(self, model: nn.Module, recipe: TrainingRecipe, train: Callable[[str], None]) -> str | None:
        """Give ``model`` the weights that training by this recipe gave it before, else train it and keep them.

        Args:
            model: as it is before training.
            recipe: how it is trained.
            train: trains it; is told the mark of the result.

        Returns:
            Name of the entry; None where nothing is trained.
        """
        if recipe.epochs == 0:
            return None
        mark = fingerprint(model, recipe, *self.facts(), *self.asked("weights"))
        path = self.folder / f"dense-{mark}.safetensors"
        if agreed(read_metadata(path).get("fingerprint") == mark and is_whole(path)):
            log(f"the dense weights of an earlier run are used: {path}")
            read_weights(model, path)
        else:
            train(mark)
            rank_zero_only(write_weights)(model, path, {"fingerprint": mark})
        return path.name

    def moments(
        self,
        subject: Subject,
        settings: CalibrationSettings,
        measure: Callable[[], Measured],
        *,
        mirrored: bool = False,
    ) -> tuple[dict[str, Moments], dict[str, Any]]:
        """Moments measured before, else measured now and kept.

        Args:
            subject: what is measured.
            settings: how it is measured.
            measure: gives moments and facts about the measurement.
            mirrored: of images, mirrored ones are measured, too.

        Returns:
            The moments, and the facts with ``reused`` and the name of the ``entry`` beside them; facts read from disk
            are strings.
        """
        facts = *self.facts(), *self.left_out(settings.samples), *self.asked("moments")
        mark = fingerprint(subject.model, settings, repr(subject.readers), mirrored, *facts)
        path = self.folder / f"moments-{mark}.safetensors"
        found = read_moments(path, mark)
        if agreed(found is not None):
            assert found is not None
            log(f"the moments of an earlier run are used: {path}")
            return found[0], {**found[1], "reused": True, "entry": path.name}
        moments, measured = measure()
        metadata = {name: str(value) for name, value in measured.items()} | {"fingerprint": mark}
        rank_zero_only(write_moments)(moments, path, metadata)
        return moments, {**measured, "reused": False, "entry": path.name}

    def latency(
        self,
        subject: Subject,
        conditions: Conditions,
        measure: Callable[[], LatencyTable],
        device: torch.device | str = "cpu",
    ) -> LatencyTable:
        """Layer times measured before on this device, else measured now and kept."""
        sizes = [(group.name, group.num_units) for group in subject.groups]
        sizes += [(block.name, 0) for block in subject.removable]
        machine = torch.__version__, platform.node(), device_name(device)
        mark = fingerprint(subject.model, sizes, conditions, *machine)
        path = self.folder / f"latency-{mark}.json"
        try:
            if kept := _read(path, mark):
                log(f"the layer times of an earlier run are used: {path}")
                return LatencyTable.from_json(kept["table"])
        except (ValueError, KeyError):
            log(f"{path} is damaged: layers are timed anew")
        table = measure()
        _write(path, {"fingerprint": mark, "table": table.to_json()})
        return table

    def scores(self, mark: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Scores measured before, else measured now and kept: all runs of a sweep ask for those of the dense network.

        Args:
            mark: hash of all that scores depend on: the network's weights, the samples, limits of the trainer.
            measure: gives them.
        """
        path = self.folder / f"scores-{mark}.json"
        try:
            if kept := _read(path, mark):
                log(f"the dense network's scores of an earlier run are used: {path}")
                return dict(kept["numbers"])
        except (ValueError, KeyError):
            log(f"{path} is damaged: the dense network is scored anew")
        numbers = measure()
        _write(path, {"fingerprint": mark, "numbers": numbers})
        return numbers

    def left_out(self, num_samples: int) -> tuple[int, ...]:
        """How many of the calibration samples repeat others; nothing where none does."""
        return tuple(filter(None, (self.data.num_repeats(num_samples, self.seed),)))

    def asked(self, purpose: Purpose) -> tuple[object, ...]:
        """Options of the trainer that a purpose depends on; nothing where it works in the usual way."""
        return trainer_facts(self.trainer, purpose)

    @cached_property
    def contents(self) -> str:
        """Hash of the samples; other ones may have come to lie under the same path."""
        return contents_of(self.data)

    def facts(self) -> tuple[object, ...]:
        """Which samples these are, and in which form and precision the network sees them."""
        settings = {key: value for key, value in self.data_settings.items() if key != "num_workers"}
        code = *self.family, *code_of([type(self.data).__module__])
        return type(self.data).__name__, settings, self.contents, self.data.format, self.seed, self.precision, *code


def _read(path: Path, mark: str) -> dict[str, Any]:
    """An entry of JSON; empty where there is none, or one of something else."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found if found.get("fingerprint") == mark else {}


def _write(path: Path, entry: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(entry), is_shared=True)
