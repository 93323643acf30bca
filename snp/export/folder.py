"""What does a folder say of the network in it: which weights are better, and what does it read?"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snp.data.loading import SampleData
from snp.export.text import Logits, example_tokens, is_language_model
from snp.graph.input_forms import example_of
from snp.models import huggingface
from snp.plan.plan import PruningPlan
from snp.report.choice import Choice, choice_of
from snp.report.record import read_json
from snp.saving import load

__all__ = ["ExportFolder", "one_tensor"]

_EXPORTED = "only networks of one tensor of numbers, as images, and causal language models are exported"
_PATHS = ("root", "train", "test", "second")  # of data
_NUM_SAMPLES = 4  # of the example that programs are traced with


@dataclass(frozen=True, eq=False)
class ExportFolder:
    """A run's folder, or one of ``snp.save``.

    Attributes:
        path: with ``plan.json`` and ``pruned.safetensors``.

    Raises:
        ValueError: one of these files is missing.
    """

    path: Path

    def __post_init__(self) -> None:
        for name in ("plan.json", "pruned.safetensors"):
            if not (self.path / name).is_file():
                raise ValueError(f"{self.path} holds no {name}: give the folder of a finished run, or of snp.save")

    def weights(self, asked: str | None) -> Choice:
        """The weights that were asked for, or else those of :func:`snp.report.choice.choice_of`, and why.

        Raises:
            ValueError: they are not there.
        """
        if asked:
            if not (self.path / f"{asked}.safetensors").is_file():
                raise ValueError(
                    f"{self.path} holds no {asked}.safetensors: the run did not make them; leave out --weights"
                )
            return Choice(asked, "asked for")
        found = choice_of(read_json(self.path / "metrics.json"))
        if found is None or not (self.path / f"{found.stage}.safetensors").is_file():
            return Choice("pruned", "there are no other weights")
        return found

    def network(self, weights: str) -> nn.Module:
        """The small network in evaluation mode; a causal language model as a function of tokens to logits.

        What was kept in half precision comes in single precision.
        """
        return one_tensor(load(self.path, weights=weights))

    def example(self, shape: str | None, model: nn.Module) -> Tensor:
        """Inputs as a network of the folder reads them, shape [4, ...]: of the shape given, or as run or plan noted it.

        Raises:
            ValueError: nobody noted it, or the network reads something else than one tensor of numbers or tokens.
        """
        data, plan = self._noted_data(), PruningPlan.load(self.path / "plan.json")
        if isinstance(model, Logits):
            return example_tokens(model.model, _NUM_SAMPLES, _sizes(shape)[0] if shape else None)
        if shape is not None:
            sizes = _sizes(shape)
        elif data is not None:
            sizes = [3, data["format"]["image_size"], data["format"]["image_size"]]
        elif list(plan.inputs) == ["0"]:
            (example,) = example_of(plan.inputs, _NUM_SAMPLES).args
            return _require_numbers(example)
        else:
            raise ValueError("the folder does not say which inputs its network takes: give --input-shape, as 3,224,224")
        return torch.randn(_NUM_SAMPLES, *sizes, generator=torch.Generator().manual_seed(0))

    def data(self) -> SampleData | None:
        """The samples of the run, as its network wants them; None where the folder is no run's.

        Raises:
            ValueError: `data.json` is damaged, or its files are not where they were.
        """
        noted = self._noted_data()
        if noted is None:
            return None
        settings = dict(noted["settings"])
        module, _, name = str(settings.pop("_target_", "")).rpartition(".")
        if not module.startswith("snp.data.") and (module, name) != ("snp.data", "other"):
            raise ValueError(f"{self.path / 'data.json'} names no data of snp.data: {module}.{name}")
        settings = _plain(settings)
        settings |= {key: self.from_there(settings[key]) for key in _PATHS if key in settings}
        found: SampleData = getattr(importlib.import_module(module), name)(**settings)
        form = {key: tuple(value) if isinstance(value, list) else value for key, value in noted["format"].items()}
        found.configure(**form)
        return found

    @property
    def seed(self) -> int:
        """Of the run; 0 where there was none."""
        return int((self._noted_data() or {"seed": 0})["seed"])

    @property
    def config(self) -> Mapping[str, Any]:
        """All settings of the run; empty for a folder of ``snp.save``."""
        return read_json(self.path / "run.json").get("config") or {}

    def from_there(self, value: Any) -> Any:
        """A relative path that leads nowhere from here, as the run had it; any other value as it is."""
        start = read_json(self.path / "run.json").get("directory")
        if not isinstance(value, str) or not start or Path(value).expanduser().exists():
            return value
        there = Path(start) / value
        return str(there) if there.exists() else value

    def _noted_data(self) -> dict[str, Any] | None:
        path = self.path / "data.json"
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            return {name: found[name] for name in ("settings", "format", "seed")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def _sizes(shape: str) -> list[int]:
    try:
        return [int(word) for word in shape.split(",")]
    except ValueError:
        raise ValueError(f"--input-shape must be numbers such as 3,224,224, found {shape!r}") from None


def _require_numbers(example: Tensor) -> Tensor:
    if not example.dtype.is_floating_point:
        raise ValueError(f"{_EXPORTED}; this one reads whole numbers, as an encoder of text does with its mask")
    return example


def one_tensor(model: nn.Module) -> nn.Module:
    """From one tensor to outputs, in evaluation mode and in single precision, which ONNX Runtime computes in."""
    model = model.float()
    if not is_language_model(model):
        return model.eval()
    if huggingface.sees_ahead(model.eval()):
        raise ValueError(
            f"{_EXPORTED}; {type(model).__name__} says of a token what depends on tokens behind it, as an encoder does"
        )
    return Logits(model).eval()
