"""In which form may a residual stream be turned?  Norms without weights, and nothing for LayerNorm to take away.

Weights and biases of norms go into the layers that read behind them; writers lose the mean of their outputs, which
LayerNorm takes away, and the direction of that mean becomes the first unit, which is always zero and stays. What is
left of either norm is a division by the length of a token, which every rotation of the units commutes with. Factors of
what is added to a stream (LayerScale) go into the layers in front of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from snp.core.rotations import level_axis, random_rotation
from snp.graph import CouplingGraph
from snp.graph.batches import Batch
from snp.graph.stream_norms import StreamNorm, stream_norms_in
from snp.graph.stream_scales import StreamScale
from snp.graph.units import UnitGroup, module_of
from snp.surgery.checks import SelfCheckError, self_check
from snp.surgery.folds import into_readers, into_writer
from snp.surgery.surgery import named_tensors, with_weights

__all__ = ["norms_of", "require_width", "turned", "with_folded_norms"]

# Of what rounding the new weights may change, relative to the spread of an output channel.
_TOLERANCE = 1e-3


def require_width(model: nn.Module, groups: Sequence[UnitGroup], frozen: Mapping[str, str]) -> None:
    """Is there a stream among the groups?

    Raises:
        ValueError: there is none; the message says why.
    """
    if any(group.kind == "width" for group in groups):
        return
    first = ", ".join(list(stream_norms_in(model))[:2])
    others = [reason for reason in frozen.values() if "head dimension" not in reason and "rotary" not in reason]
    reasons = "; ".join(list(dict.fromkeys(others))[:3]) or "no stream of added layers leads to them"
    raise ValueError(
        f"prune.structures: the width of {type(model).__name__} cannot be cut in front of {first} and others: "
        f"{reasons}. Leave width out"
    )


def norms_of(model: nn.Module, group: UnitGroup) -> dict[str, StreamNorm]:
    """Names of the weights of the norms that a stream meets -> the norms."""
    found = {member.tensor: model.get_submodule(module_of(member.tensor)) for member in group.others}
    return {name: norm for name, norm in found.items() if isinstance(norm, StreamNorm) and name.endswith(".weight")}


def scales_of(model: nn.Module, group: UnitGroup) -> dict[str, StreamScale]:
    """Names of the factors of what is added to a stream -> their modules."""
    found = {member.tensor: model.get_submodule(module_of(member.tensor)) for member in group.others}
    return {name: scale for name, scale in found.items() if isinstance(scale, StreamScale)}


def turned(model: nn.Module, group: UnitGroup, matrix_DD: Tensor) -> dict[str, Tensor]:
    """Name -> tensor of everything that writes a stream, or reads it, in another basis.

    Args:
        model: with folded norms.
        group: the stream.
        matrix_DD: orthogonal, float64; row i is what unit i becomes. Of all units, or of those that may be cut, behind
            those that stay.
    """
    tensors, found = named_tensors(model), dict[str, Tensor]()
    level = norms_of(model, group).keys() | scales_of(model, group).keys()
    for member in group.members:
        if member.tensor in level:
            continue
        value = found.get(member.tensor, tensors[member.tensor].detach())
        rows = value.movedim(member.dim, 0).double()
        part = rows[len(rows) - len(matrix_DD) :]
        new = (matrix_DD.to(part.device) @ part.reshape(len(part), -1)).reshape(part.shape)
        rows = torch.cat([rows[: len(rows) - len(part)], new]).movedim(0, member.dim)
        found[member.tensor] = rows.to(value)
    return found


def with_folded_norms(model: nn.Module, batch: Batch, graph: CouplingGraph, groups: Sequence[UnitGroup]) -> nn.Module:
    """The same network with its streams in a form that may be turned.

    Args:
        model: with :class:`snp.graph.stream_norms.StreamNorm`; not changed.
        batch: for the check.
        graph: of the model.
        groups: the streams are among them.

    Raises:
        ValueError: something in a stream does not commute with a rotation.
    """
    changed = model
    trial = model
    for group in groups:
        if group.kind == "width":
            _refuse_parts(changed, group)
            changed = _folded(changed, graph, group)
            trial = with_weights(changed, turned(changed, group, random_rotation(group.num_units)))
    try:
        self_check(model, trial, batch, tolerance=_TOLERANCE)
    except SelfCheckError as error:
        if coarse := {p.dtype for p in model.parameters() if torch.finfo(p.dtype).eps > torch.finfo(torch.float32).eps}:
            raise ValueError(
                f"prune.structures: width turns weights, which {', '.join(map(str, coarse))} is too coarse for: prune "
                "the network in single precision (model.float()) and round the small one, or leave width out"
            ) from error
        raise ValueError(
            f"prune.structures: the width of {type(model).__name__} cannot be cut, because something between its "
            f"layers does not commute with a rotation of the stream ({error}); leave width out"
        ) from error
    return changed


def _norms(model: nn.Module, group: UnitGroup) -> list[StreamNorm]:
    return list(norms_of(model, group).values())


def _refuse_parts(model: nn.Module, group: UnitGroup) -> None:
    """A stream has to be all of what its layers write, and units single indices, in order."""
    tensors, norms = named_tensors(model), _norms(model, group)
    first = int(any(norm.centres for norm in norms))
    if len({norm.centres for norm in norms}) > 1:
        raise ValueError("prune.structures: width cannot be cut where LayerNorm and RMSNorm share a stream")
    for member in group.members:
        expected = torch.arange(first, group.num_units + first)[:, None]
        if (
            tensors[member.tensor].shape[member.dim] != group.num_units + first
            or member.num_blocks > 1
            or not (torch.equal(member.index, expected))
        ):
            raise ValueError(
                f"prune.structures: width cannot be cut, because {member.tensor} holds more than the units of its "
                "stream, or in another order; leave width out"
            )


def _folded(model: nn.Module, graph: CouplingGraph, group: UnitGroup) -> nn.Module:
    weights = {name: tensor.detach().double() for name, tensor in named_tensors(model).items()}
    found: dict[str, Tensor] = {}
    norms = norms_of(model, group)
    for name in norms:
        found |= into_readers(model, weights | found, graph, group, name)
        found[name] = torch.ones_like(weights[name])
    for name in scales_of(model, group):
        found |= into_writer(model, weights | found, graph, name)
        found[name] = torch.ones_like(weights[name])
    changed = with_weights(model, {name: value.to(named_tensors(model)[name]) for name, value in found.items()})
    if not any(norm.centres for norm in norms.values()):
        return changed
    names = {module_of(name) for name in [*norms, *scales_of(model, group)]}
    own = named_tensors(changed)
    written = [m for m in group.producers + group.others if module_of(m.tensor) not in names]
    centred = {m.tensor: _centred(own[m.tensor].detach(), m.dim) for m in written}
    changed = with_weights(changed, centred)
    level = turned(changed, group, level_axis(group.num_units + 1))
    # The mean is gone but for rounding, which LayerNorm would take away and a division by the length would not.
    silent = {m.tensor: _without_first(level[m.tensor], m.dim) for m in written}
    changed = with_weights(changed, level | silent)
    for norm in _norms(changed, group):
        norm.centres = False
    return changed


def _without_first(value: Tensor, dim: int) -> Tensor:
    return value.index_fill(dim, torch.zeros(1, dtype=torch.int64, device=value.device), 0.0)


def _centred(value: Tensor, dim: int) -> Tensor:
    wide = value.double()
    return (wide - wide.mean(dim=dim, keepdim=True)).to(value)
