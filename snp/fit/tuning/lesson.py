"""How does one network take steps towards another's outputs and features?"""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
from torch import nn

from snp.fit.tuning.features import FeatureTap, Place
from snp.fit.tuning.matching import distance
from snp.fit.tuning.nearest import write_parameters
from snp.fit.tuning.samples import TuningSamples
from snp.fit.tuning.state import TuningState, optimizer_tensors, with_optimizer_tensors
from snp.fit.tuning.steps import Steps
from snp.graph.batches import Batch
from snp.measure.objective import Objective
from snp.measure.views import Views

__all__ = ["HALF", "Lesson", "rate_factor", "single_precision"]

HALF = (torch.float16, torch.bfloat16)
_WARM_UP = 0.05
_SPIKE = 3.0  # beside the mean of the gradients' lengths; what is longer counts as this
# Decay of the running mean of the weights: single steps jump about where statistics of norms are at rest.
_AVERAGE = 0.95
# Few samples, such as windows of text, still make so many steps in an epoch; no batch is larger, or smaller.
_STEPS, _LARGEST_BATCH, _SMALLEST_BATCH = 14, 64, 4


def rate_factor(step: int, num_steps: int) -> float:
    """Share of the peak rate at a step, counted from 0: up over a twentieth of the steps, then down to zero."""
    num_warmup = max(1, round(_WARM_UP * num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    return (num_steps - step) / max(num_steps - num_warmup, 1)


class Lesson:
    """One network learns from another, in epochs.

    Args:
        dense: is learned from, in evaluation mode.
        student: learns, likewise.
        objective: how outputs are compared.
        place: whose features are compared, too; None compares none.
        views: how images are shown.

    Attributes:
        steps: that are taken.
        mean: name -> running mean of a parameter over the steps.
    """

    def __init__(
        self, dense: nn.Module, student: nn.Module, objective: Objective, place: Place | None, views: Views
    ) -> None:
        self._dense, self._student, self._objective = dense, student, objective
        self._place, self._views = place, views
        self._named = {name: each for name, each in student.named_parameters() if each.requires_grad}
        self._learned = list(self._named.values())
        self._step = 0

    def begin(self, steps: Steps) -> None:
        """From here on along these steps, and without the momentum of those so far."""
        self.steps, self._usual = steps, math.inf
        self.mean = {name: parameter.detach().clone() for name, parameter in self._named.items()}
        self._optimizer = steps.of(self._learned)

    def state(self) -> TuningState:
        """Where it is, between two epochs."""
        tensors = {f"student.{name}": each.detach() for name, each in self._named.items()}
        tensors |= {f"mean.{name}": each for name, each in self.mean.items()} | optimizer_tensors(self._optimizer)
        return TuningState(tensors, {"step": self._step, "usual": self._usual, "steps": asdict(self.steps)})

    def go_on(self, state: TuningState) -> None:
        """From where another one was, of the same networks."""
        write_parameters(state.named("student"), self._student)
        self.begin(Steps(**state.numbers["steps"]))
        self.mean = {name: state.named("mean")[name].to(each) for name, each in self.mean.items()}
        with_optimizer_tensors(self._optimizer, state)
        self._step, self._usual = state.numbers["step"], state.numbers["usual"]

    def epoch(self, samples: TuningSamples, generator: torch.Generator) -> None:
        """One pass; it ends early where gradients stop being finite."""
        size = min(_LARGEST_BATCH, max(_SMALLEST_BATCH, samples.num_tuned // _STEPS))
        num_steps = self.steps.epochs * samples.num_batches(size)
        for batch in samples.shuffled(size, generator):
            for group in self._optimizer.param_groups:
                group["lr"] = self.steps.rate * rate_factor(self._step, num_steps)
            self._step += 1
            self._optimizer.zero_grad(set_to_none=True)
            self._add_gradients(self._views.drawn(batch, generator), samples.largest)
            # No gradient is longer than the mean of those before: with statistics of norms at rest there is nothing
            # else that keeps one bad batch from moving a deep network far.
            norm = float(nn.utils.clip_grad_norm_(self._learned, self._usual))
            if not math.isfinite(norm):
                return
            # Of what was cut short a part counts, or the mean could only fall.
            counted = min(norm, _SPIKE * self._usual)
            self._usual = norm if math.isinf(self._usual) else 0.9 * self._usual + 0.1 * counted
            self._optimizer.step()
            for name, mean in self.mean.items():
                mean.lerp_(self._named[name].detach(), 1 - _AVERAGE)

    def _add_gradients(self, batch: Batch, largest: int) -> None:
        """Of the mean error; as many samples at once as the network was given at once before."""
        with FeatureTap(self._dense, self._place) as teacher, FeatureTap(self._student, self._place) as student:
            for part in batch.split(largest):
                with torch.no_grad():
                    wanted = teacher.run(part)
                error = distance(self._objective, wanted, student.run(single_precision(part, self._student)), part)
                if not error.requires_grad:
                    raise ValueError(
                        "prune.reconstruct=tuned: no gradient reaches the network's outputs, because its evaluation "
                        "switches gradients off or selects among candidates; ask for prune.reconstruct=true"
                    )
                (error * (part.size / batch.size)).backward()


def single_precision(batch: Batch, student: nn.Module) -> Batch:
    """Inputs in single precision where the network is tuned in it."""
    is_single = any(parameter.dtype == torch.float32 for parameter in student.parameters())
    return batch.mapped(lambda t: t.float() if t.dtype in HALF else t) if is_single else batch
