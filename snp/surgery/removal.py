"""Which blocks can be taken out of a network, and what is the network without them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.exported import Exported
from snp.graph.ignored import is_ignored
from snp.graph.passages import passage_of
from snp.graph.residual import ResidualBlock, is_inside
from snp.graph.units import UnitGroup, module_of
from snp.plan.costs import CostModel
from snp.surgery.checks import SelfCheckError, self_check
from snp.surgery.layer_lists import is_numbered, owner_of
from snp.surgery.module_calls import Call, calls_of, cloned
from snp.surgery.passing import without_blocks, zeroed_writers
from snp.surgery.surgery import with_weights

__all__ = ["removable_blocks", "require_blocks"]

_AS_A_WHOLE = "as a whole"


def removable_blocks(
    model: nn.Module,
    exported: Exported,
    costs: CostModel,
    batch: Batch,
    groups: Sequence[UnitGroup],
    ignore: Sequence[str] = (),
) -> tuple[tuple[ResidualBlock, ...], dict[str, str]]:
    """Blocks that can be taken out, tried one by one on a batch.

    Candidates are entries of ``nn.Sequential`` and ``nn.ModuleList`` that give out a tensor of the form they get. One
    that is a sum of its input and branches, and gives out its input once these are zero, and in whose place a module
    that passes its input on does as well, can be taken out. Of blocks inside each other the inner ones are taken.

    Args:
        model: in evaluation mode.
        exported: the same, for this batch.
        costs: of the groups.
        batch: a few samples.
        groups: that take part; all units of a group lie inside a block, or all outside.
        ignore: patterns; a block that they name a part of stays.

    Returns:
        The blocks in the order of their calls, and name -> reason for candidates that are left alone.
    """
    found, refused = list[ResidualBlock](), dict[str, str]()
    calls = calls_of(model, batch)
    for name, call in calls.items():
        if is_ignored(model, name, ignore):
            continue
        try:
            block = _candidate(model, exported, groups, name, call)
            found.append(_counted(_tried(model, block, batch), model, costs, batch))
        except _NoSumError:
            continue
        except (ValueError, SelfCheckError) as error:
            refused[name] = f"{_AS_A_WHOLE}: {error}"
    inner = [one for one in found if not any(other is not one and is_inside(other.name, [one]) for other in found)]
    return tuple(inner), {name: why for name, why in refused.items() if not is_inside(name, inner)}


def require_blocks(model: nn.Module, found: Sequence[ResidualBlock], frozen: Mapping[str, str]) -> None:
    """Can any block go as a whole?

    Raises:
        ValueError: none can; the message says why.
    """
    if found:
        return
    reasons = [f"{name}: {why}" for name, why in frozen.items() if why.startswith(_AS_A_WHOLE)][:3]
    raise ValueError(
        f"prune.structures: nothing in {type(model).__name__} can go as a whole block: "
        + ("; ".join(reasons) or "no entry of an nn.Sequential or nn.ModuleList adds to what it gets, and nothing else")
        + ". Leave blocks out"
    )


class _NoSumError(ValueError):
    """The module is nothing like a residual block; there is no need to speak of it."""


def _candidate(
    model: nn.Module, exported: Exported, groups: Sequence[UnitGroup], name: str, calls: Sequence[Call]
) -> ResidualBlock:
    """The block, if numbers bear out that it is one.

    Raises:
        ValueError: they do not.
    """
    call, num_outputs = calls[0], _num_outputs(calls[0])
    try:
        passage = passage_of(exported, name)
    except ValueError as error:
        raise _NoSumError(str(error)) from error
    module = model.get_submodule(name)
    if is_numbered(module) and owner_of(model, name.rpartition(".")[0]) is None:
        raise ValueError(
            "it has a number, by which it finds its part of a cache, and no configuration counts the others"
        )
    own = {id(parameter) for parameter in module.parameters()}
    others = (p for key, p in model.named_parameters(remove_duplicate=False) if not key.startswith(f"{name}."))
    if len(calls) > 1 or any(id(parameter) in own for parameter in others):
        raise ValueError("it, or a tensor of it, is used more than once")
    block = ResidualBlock(name, passage.writers, call.num_inputs, num_outputs)
    if not all(is_inside(writer, [block]) for writer in block.writers):
        raise ValueError("it adds by tensors of others")
    if beyond := [group.name for group in groups if _is_parted(group, block)]:
        raise ValueError(f"units of {beyond[0]} lie inside and outside of it")
    zeros = {writer.removeprefix(f"{name}."): value for writer, value in zeroed_writers(model, [block]).items()}
    with torch.no_grad():
        args, kwargs = cloned((call.args, call.kwargs))
        output = with_weights(module, zeros, share=True)(*args, **kwargs)
    if not call.passes_on(output):
        raise ValueError("it gives out something else than its input where its branches are zero")
    return block


def _num_outputs(call: Call) -> int | None:
    """See :class:`snp.graph.residual.ResidualBlock`.

    Raises:
        _NoSumError: it does not give out what it gets, in another state.
    """
    entries = call.output if isinstance(call.output, tuple) else (call.output,)
    found, given = entries[0] if entries else None, call.first
    if not (isinstance(found, Tensor) and isinstance(given, Tensor)) or any(entry is not None for entry in entries[1:]):
        raise _NoSumError("it gives out something else than one tensor")
    if (found.shape, found.dtype) != (given.shape, given.dtype):
        raise _NoSumError("it gives out a tensor of another form than it gets")
    return len(entries) if isinstance(call.output, tuple) else None


def _is_parted(group: UnitGroup, block: ResidualBlock) -> bool:
    """Does a group lie partly inside a block?"""
    return len({is_inside(module_of(member.tensor), [block]) for member in group.members}) > 1


def _tried(model: nn.Module, block: ResidualBlock, batch: Batch) -> ResidualBlock:
    """The block, if the network runs without it as with zeros in it.

    Raises:
        SelfCheckError: it does not.
    """
    masked = with_weights(model, zeroed_writers(model, [block]), share=True)
    try:
        small = without_blocks(_shared_copy(model), [block])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise SelfCheckError(f"it cannot be taken out: {type(error).__name__}: {error}") from error
    self_check(masked, small, batch)
    return block


def _counted(block: ResidualBlock, model: nn.Module, costs: CostModel, batch: Batch) -> ResidualBlock:
    """The block with what it takes beside the products of its weights."""
    without = without_blocks(_shared_copy(model), [block])
    whole = macs_of_batch(model, batch) - macs_of_batch(without, batch)
    rest = costs.without([block])
    weights = costs.macs(costs.dense) - rest.macs(rest.dense)
    return replace(block, fixed_macs=whole - weights)


def _shared_copy(model: nn.Module) -> nn.Module:
    return with_weights(model, {}, share=True)
