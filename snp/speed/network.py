"""How large is a network, and how much does it compute?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.modes import as_before


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
    """Bytes of parameters and buffers, shared ones once: what the file of weights takes, but for its header."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


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
    with as_before(model), torch.no_grad():
        model.eval()
        yield
