"""Which network is it, where do its weights come from, and what must be known to build it again?

A family is one file in this folder: it has `build(*, num_classes, image_size, **arguments)` and `preprocessing(model,
image_size)`, and `load_pretrained` if there are weights to fetch; other packages bring such modules as entry points of
`snp.models`. `ModelSpec` (of image classifiers) and
`LanguageModelSpec` are what a file in conf/model says; `prepare` makes the network of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic.dataclasses import dataclass as options
from torch import nn

from snp.core.options import STRICT, named, option
from snp.core.values import refuse_unknown_arguments
from snp.models._language import LanguageModelSpec, PreparedLanguageModel
from snp.models.sources import checkpoint, recipes
from snp.models.sources.hub import WeightsNotFoundError
from snp.models.sources.recipes import build, families, rebuild

__all__ = [
    "LanguageModelSpec",
    "ModelSpec",
    "Prepared",
    "PreparedLanguageModel",
    "PreparedModel",
    "Spec",
    "WeightsNotFoundError",
    "build",
    "families",
    "rebuild",
]

_FAMILY = "a family is a module with build(*, num_classes, image_size, ...) and preprocessing(model, image_size)"
_FORMAT = ("image_size", "mean", "std", "interpolation", "crop_fraction")
TRAINED_FIRST = "the dense network is trained first"


@dataclass(frozen=True)
class PreparedModel:
    """A network ready for the pipeline, and what the pipeline must know of it.

    Attributes:
        model: the network, on the CPU, in training mode as built.
        recipe: JSON-able; `build(**recipe)` is the same architecture with random weights.
        weights: "checkpoint" or "pretrained" when it can be scored as it is; "backbone" (new head) or "random" when it
            must be trained first.
        reason: one sentence for the user: which weights, or why training must come first.
        image_size: height and width of the images in pixels.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1].
        interpolation: "bilinear", "bicubic", ...: how images are resized for evaluation.
        crop_fraction: part of the resized image that the centre crop keeps, in (0, 1].
    """

    model: nn.Module
    recipe: dict[str, Any]
    weights: str
    reason: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_fraction: float

    @property
    def format(self) -> dict[str, Any]:
        """What image data need to know."""
        return {name: getattr(self, name) for name in _FORMAT}


@named(lambda given: "model")
@options(frozen=True, config=STRICT)
class ModelSpec:
    """Which network to use and where its weights are."""

    family: str = option(..., "a file in snp/models, or an entry point of snp.models")
    name: str = option(..., "how reports call it")
    arguments: Mapping[str, Any] = option({}, "of the family's build, beside num_classes and image_size")
    pretrained: bool = option(False, "fetch the family's pretrained weights")
    checkpoint: str | None = option(
        None, "a file of weights with the family's keys (.safetensors, .pth, .ckpt); wins over pretrained"
    )
    normalize: Mapping[str, Any] | None = option(
        None, "{mean: [3 numbers], std: [3 numbers]} for weights trained with other statistics than the family's own"
    )
    smallest_image: int = option(
        32, "pixels at which tiny images are shown to it, where a data set asks for that", ge=1
    )

    reads = "images"

    def prepare(self, num_classes: int, image_size: int | None, *, trains_from_scratch: bool) -> PreparedModel:
        """Build the network and give it its weights: the checkpoint, else pretrained ones, else random ones.

        Args:
            num_classes: classes of the data.
            image_size: height and width of the data's images in pixels; None for the network's own.
            trains_from_scratch: whether random weights are a fair start on this data, when pretrained ones cannot be
                had.

        Raises:
            FileNotFoundError: the checkpoint is not there.
            ValueError: unknown family or arguments, a checkpoint that does not fit, or pretrained weights that cannot
                be had for data that is too big to train on from scratch.
        """
        module = recipes.FAMILIES.load(self.family)
        if lacking := [name for name in ("build", "preprocessing") if not callable(getattr(module, name, None))]:
            raise ValueError(f"model.family={self.family}: {module.__name__} has no function {lacking[0]}; {_FAMILY}")
        refuse_unknown_arguments(module.build, self.arguments, "model.arguments", own=("num_classes", "image_size"))
        arguments = {**self.arguments, "num_classes": num_classes, "image_size": image_size}
        if self.checkpoint is not None:
            model, weights, reason = self._from_checkpoint(module, arguments)
        elif self.pretrained:
            model, weights, reason = self._from_pretrained(module, arguments, trains_from_scratch)
        else:
            model, weights = module.build(**arguments), "random"
            reason = f"{self.name} starts from random weights (model.pretrained=false), so {TRAINED_FIRST}"
        if not isinstance(model, nn.Module):
            raise ValueError(f"model.family={self.family}: build gave a {type(model).__name__}, no torch.nn.Module")
        facts = self._format(module, model, image_size)
        recipe = {"family": self.family, "arguments": {**arguments, "image_size": facts["image_size"]}}
        return PreparedModel(model=model, recipe=recipe, weights=weights, reason=reason, **facts)

    def _format(self, module: ModuleType, model: nn.Module, image_size: int | None) -> dict[str, Any]:
        """What image data need to know: of the family, but for what `normalize` says."""
        given = module.preprocessing(model, image_size)
        found = {**given, **self._normalization()} if isinstance(given, Mapping) else {}
        lacking = [name for name in _FORMAT if name not in found]
        unknown = [name for name in found if name not in _FORMAT]
        if lacking or unknown:
            wrong = f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(unknown)}, too"
            raise ValueError(
                f"model.family={self.family}: preprocessing(model, image_size) must give a mapping of "
                f"{', '.join(_FORMAT)} and nothing else; what it gives {wrong}"
            )
        return found

    def _from_checkpoint(self, module: ModuleType, arguments: dict[str, Any]) -> tuple[nn.Module, str, str]:
        assert self.checkpoint is not None
        model = module.build(**arguments)
        entry = checkpoint.load(model, self.checkpoint, arguments["num_classes"])
        average = f" ({entry}, the running mean)" if entry else ""
        return model, "checkpoint", f"{self.name} has the weights of {self.checkpoint}{average}"

    def _from_pretrained(
        self, module: ModuleType, arguments: dict[str, Any], trains_from_scratch: bool
    ) -> tuple[nn.Module, str, str]:
        if not hasattr(module, "load_pretrained"):
            raise ValueError(
                f"model.pretrained=true: the family {self.family} has no weights to fetch; set model.checkpoint=PATH "
                "or model.pretrained=false"
            )
        try:
            model, source, whole = module.load_pretrained(**arguments)
        except WeightsNotFoundError as error:
            return self._without_pretrained(module, arguments, error, trains_from_scratch)
        if whole:
            return model, "pretrained", f"{self.name} has the pretrained weights of {source}"
        head = f"a new head of {arguments['num_classes']} classes"
        return model, "backbone", f"{self.name} has the pretrained weights of {source} with {head}, so {TRAINED_FIRST}"

    def _without_pretrained(
        self, module: ModuleType, arguments: dict[str, Any], error: WeightsNotFoundError, trains_from_scratch: bool
    ) -> tuple[nn.Module, str, str]:
        if not trains_from_scratch:
            raise ValueError(
                f"no pretrained weights for {self.name}: {error}; set model.checkpoint=PATH to a safetensors file, "
                "connect once so that the cache is filled, or set model.pretrained=false"
            ) from error
        reason = f"{self.name} starts from random weights ({error}), so {TRAINED_FIRST}"
        return module.build(**arguments), "random", reason

    def _normalization(self) -> dict[str, tuple[float, ...]]:
        if self.normalize is None:
            return {}
        if set(self.normalize) != {"mean", "std"} or any(len(self.normalize[key]) != 3 for key in ("mean", "std")):
            raise ValueError(
                f"model.normalize={dict(self.normalize)}: give three numbers each for mean and std, or null for the "
                "model's own"
            )
        return {key: tuple(float(value) for value in self.normalize[key]) for key in ("mean", "std")}


Spec = ModelSpec | LanguageModelSpec
Prepared = PreparedModel | PreparedLanguageModel
