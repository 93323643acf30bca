"""Which hidden features do a dense and a pruned network have in common, last before the head?"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from snp.fit.tuning.matching import feature_error
from snp.graph.batches import Batch

__all__ = ["FeatureTap", "Place", "common_features"]

# Squared difference beside the energy of the dense network's features. Half of the MACs of an EfficientNet leave 0.3, a
# stream in another basis has 1.5 to 2.
_ALIKE = 0.75


@dataclass(frozen=True)
class Place:
    """Output of a module at one of its calls.

    Attributes:
        module: name.
        call: number of the call in a pass, from 0.
    """

    module: str
    call: int = 0


def common_features(dense: nn.Module, small: nn.Module, batch: Batch) -> Place | None:
    """The last output of a module before the last layer with a weight that is the same in both networks but for errors.

    It has the same shape, and does not differ by as much as its own energy: a stream that was turned before it was cut
    has the shape of the dense network's, too. One with positions (maps, tokens) is preferred to a pooled one, which
    says less. Streams that no cut narrows are such features; None where every hidden width was cut.

    Args:
        dense: in evaluation mode.
        small: the pruned network, likewise.
        batch: a few samples on their device.
    """
    before, after = _shapes(dense, batch), _shapes(small, batch)
    alike = [place for place, shape in before.items() if after.get(place) == shape]
    # The last one with positions first.
    ordered = sorted(reversed(alike), key=lambda place: len(before[place]) <= 2)
    return next((place for place in ordered if _differ_by(dense, small, place, batch) <= _ALIKE), None)


def _differ_by(dense: nn.Module, small: nn.Module, place: Place, batch: Batch) -> float:
    """Of features, as tuning compares them."""
    with torch.no_grad(), FeatureTap(dense, place) as wanted, FeatureTap(small, place) as found:
        features = [tap.run(batch)[1] for tap in (wanted, found)]
    assert features[0] is not None
    assert features[1] is not None
    return float(feature_error(features[0], features[1], batch))


def _shapes(model: nn.Module, batch: Batch) -> dict[Place, tuple[int, ...]]:
    """Outputs of modules in the order in which they are made, up to the last layer with a weight."""
    found: dict[Place, tuple[int, ...]] = {}
    calls: dict[str, int] = {}
    before_last = 0

    def enter(*_: Any) -> None:
        nonlocal before_last
        before_last = len(found)

    def leave(name: str, output: Any) -> None:
        place = Place(name, calls.get(name, 0))
        calls[name] = place.call + 1
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            found[place] = tuple(output.shape)

    with torch.no_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            left = module.register_forward_hook(lambda _, args, output, name=name: leave(name, output))
            hooks.enter_context(left)
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
                hooks.enter_context(module.register_forward_pre_hook(enter))
        batch.call(model)
    return dict(list(found.items())[:before_last])


class FeatureTap(ExitStack):
    """Keeps the output at a place while a network runs inside the ``with`` block.

    Args:
        model: that runs.
        place: None keeps nothing.
    """

    def __init__(self, model: nn.Module, place: Place | None) -> None:
        super().__init__()
        self._model, self._place = model, place
        self._calls = 0
        self._kept: Tensor | None = None

    def __enter__(self) -> Self:
        if self._place is not None:
            module = self._model.get_submodule(self._place.module)
            self.enter_context(module.register_forward_hook(self._note))
        return self

    def run(self, batch: Batch) -> tuple[Any, Tensor | None]:
        """The network's output, and its features at the place."""
        self._calls, self._kept = 0, None
        output = batch.call(self._model)
        kept, self._kept = self._kept, None
        return output, kept

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        assert self._place is not None
        if self._calls == self._place.call:
            self._kept = output
        self._calls += 1
