"""How large and how fast is a network?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch, device_of
from snp.graph.counting import macs_of_batch
from snp.speed.timing import NUM_WARMUP, time_in_turns

MIN_PASSES = 5


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        median_ms: Median over the measured passes, milliseconds, above 0.
        iqr_ms: Spread: distance between the quartiles, milliseconds, 0 or more.
        num_threads: CPU threads used inside operations.
        batch_size: Samples per pass.
        num_passes: Passes that were measured.
        num_warmup: Passes before them that do not count.
    """

    median_ms: float
    iqr_ms: float
    num_threads: int
    batch_size: int
    num_passes: int
    num_warmup: int

    @property
    def samples_per_s(self) -> float:
        """Throughput: samples of a batch over the median time of its pass."""
        return 1e3 * self.batch_size / self.median_ms


def macs(model: nn.Module, example: Any) -> int:
    """Count the multiply-accumulates of one sample (one MAC is two FLOPs).

    Convolutions, matrix products and attention count; norms, activations and additions do not.

    Args:
        model: Any module that takes the example; left in the mode (train or eval) it came in.
        example: One batch on the model's device; only the first sample is used.

    Raises:
        ValueError: The example holds no sample.
    """
    with _evaluating(model):
        return macs_of_batch(model, _some(example).first(1))


def num_params(model: nn.Module) -> int:
    """Count the elements of all parameters, shared ones once; buffers are left out."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers: what the file of weights takes, but for its header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def latency(model: nn.Module, example: Any, *, num_threads: int = 1, min_run_time_s: float = 1.0) -> Latency:
    """Time the forward pass in evaluation mode; the first passes warm up and do not count.

    Args:
        model: Any module that takes the example; left in the mode (train or eval) it came in.
        example: The batch to time, on the model's device.
        num_threads: CPU threads, 1 or more. On a machine that does other work too, several threads wait for each other
            and can take forty times as long as one.
        min_run_time_s: Seconds to keep measuring, above 0; a slow network takes longer, for five measurements at least.

    Raises:
        ValueError: The example holds no sample, or a number is out of range.
    """
    inputs = _some(example)
    if num_threads < 1 or not min_run_time_s > 0:
        found = f"{num_threads} and {min_run_time_s}"
        raise ValueError(f"num_threads must be at least 1 and min_run_time_s above 0, found {found}.")
    with _evaluating(model):
        times = time_in_turns(
            {"pass": lambda: inputs.call(model)},
            num_threads=num_threads,
            min_rounds=MIN_PASSES,
            min_seconds=min_run_time_s,
            device=device_of(model),
        )["pass"].wall
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, median, high = (1e3 * torch.tensor(times, dtype=torch.float64).quantile(quartiles)).tolist()
    return Latency(median, high - low, num_threads, inputs.size, len(times), NUM_WARMUP)


def _some(example: Any) -> Batch:
    """A batch that is not empty."""
    inputs = Batch.of(example)
    shapes = [tuple(leaf.shape) for leaf in inputs.leaves if isinstance(leaf, Tensor)]
    if not shapes or not shapes[0] or shapes[0][0] < 1:
        raise ValueError(f"example must be a batch of at least one sample, found shape {shapes[0] if shapes else ()}.")
    return inputs


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; puts back the training flag of every submodule."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
