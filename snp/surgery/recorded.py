"""How far apart are two networks at their outputs, and at the input of every layer that reads units?

Each channel is held to its own spread, so that neither a large mean nor larger neighbours hide an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.core.precision import in_double as in_double_precision
from snp.core.precision import wider
from snp.graph.batches import Batch
from snp.graph.residual import is_inside
from snp.plan.plan import PruningPlan
from snp.surgery.module_sizes import is_turned

__all__ = ["Difference", "Recording", "kept_inputs", "largest_difference", "record"]

# What rounding may do to a channel, relative to its largest value, and to that of its neighbours, in units of what is
# allowed beside the channel's spread.
_OWN_ROUNDING, _COMMON_ROUNDING = 1e-6, 1e-7
# Outputs so many times as large as usual ones are masks (-1e9, the least number there is) and have no part in a spread.
_HUGE = 1e3
# Values of one layer's input that are kept: positions are sampled where there are more.
_MOST_VALUES = 2**20


@dataclass(frozen=True, eq=False)
class Recording:
    """What a network did on one batch.

    Attributes:
        outputs: every output tensor.
        inputs: module name -> its inputs at every call, shape [positions, channels].
    """

    outputs: list[Tensor]
    inputs: dict[str, list[Tensor]]


@dataclass(frozen=True)
class Difference:
    """The largest difference of two networks relative to what it is held to, and where it is."""

    size: float = 0.0
    place: str = "nowhere"


def kept_inputs(model: nn.Module, plan: PruningPlan) -> dict[str, Tensor | None]:
    """Module name -> input channels that stay, for every convolution and linear layer; None for all of them."""
    removed, blocks, found = plan.removed(), plan.blocks(), dict[str, Tensor | None]()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2 or not _is_layer(module):
            continue
        if is_inside(name, plan.removed_blocks):
            continue
        tensor = f"{name}.weight" if name else "weight"
        dim = 0 if is_turned(module) else 1
        gone, size = removed.get((tensor, dim)), weight.shape[dim] * blocks.get((tensor, dim), 1)
        if dim == 1 and gone is None and weight.shape[1] == 1 < getattr(module, "groups", 1):
            # A depthwise kernel has its units along its rows, each input channel as often as the multiplier says.
            gone, size = removed.get((tensor, 0)), getattr(module, "groups", 1)
            gone = None if gone is None else gone // (len(weight) // size)
        channels = torch.arange(size)
        found[name] = None if gone is None else channels[~torch.isin(channels, gone)]
    return found


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or is_turned(module)


def record(
    model: nn.Module, batch: Batch, inputs: Mapping[str, Tensor | None], *, in_double: bool, seed: int = 0
) -> Recording:
    """Run a network on a batch under one seed.

    Args:
        model: it is not changed.
        batch: inputs.
        inputs: module names -> channels to look at, see :func:`kept_inputs`.
        in_double: compute in double precision, whatever the weights are.
        seed: of everything random inside the network.
    """
    seen: dict[str, list[Tensor]] = {}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with ExitStack() as stack, torch.no_grad(), torch.random.fork_rng(devices=devices):
        for name, channels in inputs.items():
            module = model.get_submodule(name)
            handle = module.register_forward_pre_hook(_hook(seen, name, channels))
            stack.callback(handle.remove)
        torch.manual_seed(seed)
        with in_double_precision() if in_double else nullcontext():
            output = (batch.mapped(wider) if in_double else batch).call(model)
    return Recording([leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)], seen)


def _hook(seen: dict[str, list[Tensor]], name: str, channels: Tensor | None) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point() or args[0].ndim < 2:
            return
        values = args[0].detach()
        weight: Any = module.weight
        rows = values.movedim(1 if weight.ndim > 2 and values.ndim == weight.ndim else -1, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        chosen = channels if channels is not None and rows.shape[1] > len(channels) else None
        # By the channels that are looked at: the dense network and the small one are looked at in the same positions.
        most = max(16, _MOST_VALUES // max(rows.shape[1] if chosen is None else len(chosen), 1))
        if len(rows) > most:
            rows = rows[torch.linspace(0, len(rows) - 1, most).long().to(rows.device)]
        if chosen is not None:
            rows = rows.index_select(1, chosen.to(rows.device))
        seen.setdefault(name, []).append(rows.clone())

    return hook


def largest_difference(wanted: Recording, found: Recording) -> Difference:
    """The difference that is largest beside its channel's spread; infinite where the two cannot be compared."""
    worst = Difference()
    if len(wanted.outputs) != len(found.outputs):
        counts = f"{len(wanted.outputs)} to {len(found.outputs)}"
        return Difference(float("inf"), f"the number of outputs, which changed from {counts}")
    pairs: list[tuple[str, Tensor, Tensor, int | None]] = [
        (f"output {n}", *pair, None) for n, pair in enumerate(zip(wanted.outputs, found.outputs, strict=True))
    ]
    for name, values in wanted.inputs.items():
        others = found.inputs.get(name, [])
        if len(others) != len(values):
            return Difference(float("inf"), f"{name}, which is called {len(others)} times instead of {len(values)}")
        pairs += [(f"the input of {name}", *pair, 1) for pair in zip(values, others, strict=True)]
    for place, want, have, channel_dim in pairs:
        size = _difference(want, have, channel_dim)
        if not size <= worst.size:
            worst = Difference(size, place if want.shape == have.shape else f"{place}, {_shapes(want, have)}")
    return worst


def _shapes(want: Tensor, have: Tensor) -> str:
    return f"whose shape changed from {tuple(want.shape)} to {tuple(have.shape)}"


def _difference(want: Tensor, have: Tensor, channel_dim: int | None) -> float:
    """Largest difference relative to the spread of its channel; which dimension is the channel's may be unknown."""
    if want.shape != have.shape:
        return float("inf")
    if not (want.is_floating_point() or want.is_complex()):
        return 0.0 if torch.equal(want, have) else float("inf")
    if want.is_complex():
        want, have = torch.view_as_real(want), torch.view_as_real(have)
    is_finite = torch.isfinite(want)
    if not torch.equal(want[~is_finite], have[~is_finite]) or not torch.equal(is_finite, torch.isfinite(have)):
        return float("inf")
    want, have = (torch.where(is_finite, values, 0).detach().double() for values in (want, have))
    error = (want - have).abs()
    if not bool(error.any()):
        return 0.0
    if channel_dim is None:
        huge = _is_huge(want)
        of_huge = float((error / want.abs())[huge].max()) if bool(huge.any()) else 0.0
        want, error = (values.masked_fill(huge, 0.0) for values in (want, error))
        return max(of_huge, _largest(want, error, None))
    return _largest(want, error, channel_dim)


def _is_huge(values: Tensor) -> Tensor:
    """Where values are far beyond the usual: held to that spread, all others might be anything."""
    sizes = values.abs()
    some = sizes[sizes > 0]
    return sizes > _HUGE * some.median() if len(some) else torch.zeros_like(sizes, dtype=torch.bool)


def _largest(want: Tensor, error: Tensor, channel_dim: int | None) -> float:
    dims = [channel_dim] if channel_dim is not None else list(range(1, want.ndim)) or [want.ndim]
    return max(_beside_spread(want, error, dim) for dim in dims)


def _beside_spread(want: Tensor, error: Tensor, dim: int) -> float:
    """Per index of a dimension; all values together where there is no such dimension."""
    if dim >= want.ndim:
        want, error, dim = want.reshape(-1, 1), error.reshape(-1, 1), 1
    rows, errors = (values.movedim(dim, 0).flatten(1) for values in (want, error))
    largest = rows.abs().amax(dim=1)
    allowed = rows.std(dim=1, correction=0) + _OWN_ROUNDING * largest + _COMMON_ROUNDING * float(largest.max())
    return float((errors.amax(dim=1) / allowed.clamp_min(torch.finfo(torch.float64).tiny)).max())
