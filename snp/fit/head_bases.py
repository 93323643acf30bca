"""In which basis should the dimensions of attention heads lie, so that cutting some costs least?

Queries and keys meet in inner products only, and values are only read by the output projection, so each head may be
rotated without changing what the network computes. After that the usual choice among dimensions is the best one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from snp.core.bases import PairedBasis, affine_second_moment, paired_basis
from snp.core.gram import Moments
from snp.fit.projections import Projection
from snp.graph.heads import AttentionLayer
from snp.graph.units import UnitGroup
from snp.plan.problem import LogitStatistics
from snp.surgery.checks import SelfCheckError, self_check
from snp.surgery.subject import Subject
from snp.surgery.surgery import with_weights

__all__ = ["InBases", "in_head_bases"]

# Of what rounding the turned weights may change, relative to the spread of an output channel.
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class InBases:
    """A network whose heads lie in the bases that suit a cut.

    Attributes:
        subject: its model computes the same, from other weights.
        moments: as they would be measured on it.
        logits: what planners look at where queries meet keys, by group name.
    """

    subject: Subject
    moments: dict[str, Moments]
    logits: dict[str, LogitStatistics]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A layer of attention, and what was measured around it, by weight name."""

    model: nn.Module
    layer: AttentionLayer
    moments: Mapping[str, Moments]
    sensitivity: Mapping[str, Tensor]


@dataclass(eq=False)
class _Change:
    """New weights of one layer, and what maps its output projection's inputs, by weight name."""

    weights: dict[str, Tensor]
    maps: dict[str, Tensor]
    logits: dict[str, LogitStatistics]


def in_head_bases(
    subject: Subject,
    moments: Mapping[str, Moments],
    sensitivity: Mapping[str, Tensor],
    *,
    rotate: bool | Collection[str],
) -> InBases:
    """Rotate every head whose dimensions may be cut.

    Args:
        subject: the dense network.
        moments: of its readers' inputs; those of query and key projections among them.
        sensitivity: weight name -> Fisher matrix of its outputs, or empty.
        rotate: False leaves the bases as they are and only looks at what their dimensions hold; names of groups leave
            those of all others.
    """
    model, found = subject.model, dict(moments)
    if isinstance(rotate, bool):
        rotate = {group.name for group in subject.groups if rotate}
    logits: dict[str, LogitStatistics] = {}
    for layer in subject.graph.attention:
        seen = _Seen(model, layer, found, sensitivity)
        change = _change(seen, subject.groups, rotate)
        if change.weights:
            rotated = with_weights(model, change.weights)
            try:
                self_check(model, rotated, subject.example, tolerance=_TOLERANCE)
            except SelfCheckError:
                # Something between the projections does not commute with a rotation, a nonlinearity for one.
                change = _change(seen, subject.groups, ())
            else:
                model = rotated
        logits |= change.logits
        for name, matrix in change.maps.items() if change.weights else ():
            old = found[name]
            found[name] = Moments(matrix @ old.second @ matrix.T, matrix @ old.first, old.count)
    return InBases(replace(subject, model=model), found, logits)


def _change(seen: _Seen, groups: tuple[UnitGroup, ...], rotate: Collection[str]) -> _Change:
    change, layer = _Change({}, {}, {}), seen.layer
    for group in groups:
        if group.kind in ("qk", "dims") and layer.query.is_in(group.producers):
            _queries_and_keys(change, seen, group, rotate=group.name in rotate)
        if group.kind in ("vo", "dims") and layer.value.is_in(group.producers) and group.name in rotate:
            _values(change, seen, group)
    return change


def _queries_and_keys(change: _Change, seen: _Seen, group: UnitGroup, *, rotate: bool) -> None:
    """Bases of queries and keys. A constant added to all keys leaves every softmax as it is, so keys are centred.

    Not so where rotary embeddings turn them by their positions. Dimensions then go in pairs, whose product at a random
    angle has half the product of both energies as its mean square, and other bases would not turn alike.
    """
    energies, weights, units, layer = [], [], [], seen.layer
    rotate = rotate and not layer.is_rotary and not layer.shares_units(group)
    query, key = (Projection(seen.model, rows.tensor, change.weights, rows.dim) for rows in (layer.query, layer.key))
    of_query, of_key = seen.moments[layer.query.tensor], seen.moments[layer.key.tensor]
    second, mean = of_query.second / max(of_query.count, 1), of_query.mean()
    centred = of_key.centred() / max(of_key.count, 1)
    for keys in layer.key.index.unique(dim=0):
        heads = layer.query.index[(layer.key.index == keys).all(dim=1)]  # [heads that share these keys, D]
        first = sum(affine_second_moment(*query.rows(rows), second, mean) for rows in heads)
        assert isinstance(first, Tensor)
        of_unit = layer.places_of_units(group, keys)
        units.append(layer.units_of(group, keys))
        if layer.is_rotary and of_unit.shape[1] > 1:
            second_moment = affine_second_moment(*key.rows(keys), of_key.second / max(of_key.count, 1), of_key.mean())
        else:
            key_weight = key.rows(keys)[0]
            second_moment = key_weight @ centred @ key_weight.T
        basis = paired_basis(first, second_moment) if rotate else None
        plain = first.diagonal()[of_unit].sum(1) * second_moment.diagonal()[of_unit].sum(1) / of_unit.shape[1]
        energies.append(plain if basis is None else basis.energy)
        if basis is not None:
            for rows in heads:
                query.rotate(rows, basis.first)
            key.rotate(keys, basis.second)
        # What an error of a logit does: the gradient of a query is the logits' gradients times the keys.
        fisher = seen.sensitivity.get(layer.query.tensor)
        moved = sum(float(fisher.diagonal()[rows].sum()) for rows in heads) if fisher is not None else 1.0
        spread = float(second_moment.trace()) if fisher is not None else 1.0
        weights.append(torch.full((len(of_unit),), moved / spread if spread > 0 else 0.0, dtype=torch.float64))
    change.logits[group.name] = _of_units(group, *(torch.cat(parts) for parts in (units, energies, weights)))


def _of_units(group: UnitGroup, units: Tensor, energies: Tensor, weights: Tensor) -> LogitStatistics:
    """Statistics of units from those of their dimensions in every head; a unit may lie in several heads."""
    if len(units) == group.num_units:
        return LogitStatistics(energies, weights)
    none = torch.zeros(group.num_units, dtype=torch.float64)
    energy, weighted = (none.index_add(0, units, values) for values in (energies, energies * weights))
    return LogitStatistics(energy, torch.where(energy > 0, weighted / energy, none))


def _values(change: _Change, seen: _Seen, group: UnitGroup) -> None:
    """Bases of values and of the columns that read them, by what moves the output projection's output."""
    if len(group.consumers) != 1 or seen.layer.shares_units(group):
        return
    (member,), model, layer = group.consumers, seen.model, seen.layer
    if model.get_parameter(member.tensor)[0, 0].numel() > 1:
        return  # a kernel that sees several positions is not turned with one of them
    value = Projection(model, layer.value.tensor, change.weights, layer.value.dim)
    out = Projection(model, member.tensor, change.weights, 1 - member.dim)
    of_out = seen.moments[member.tensor]
    gram = of_out.centred() / max(of_out.count, 1)
    weight, fisher = out.weight(), seen.sensitivity.get(member.tensor)
    weighed = weight if fisher is None else fisher.to(weight) @ weight
    matrix = torch.eye(len(gram), dtype=torch.float64)
    size = group.units_per_partition
    for partition, rows in enumerate(layer.value.index.unique(dim=0)):
        columns = member.index[partition * size : (partition + 1) * size].T  # [heads that share these values, V]
        if columns.shape[1] != len(rows):
            return
        values = sum(gram[head][:, head] for head in columns)
        readers = sum(weight[:, head].T @ weighed[:, head] for head in columns)
        assert isinstance(values, Tensor)
        assert isinstance(readers, Tensor)
        basis = _of_equal_energy(paired_basis(values, readers), values)
        value.rotate(rows, basis.first)
        for head in columns:
            out.rotate_columns(head, basis.second)
            matrix[head[:, None], head] = basis.first
    change.maps[member.tensor] = matrix


def _of_equal_energy(basis: PairedBasis, values: Tensor) -> PairedBasis:
    """The basis in which values have as much energy as before, so that a ridge means what it meant."""
    now = float((basis.first @ values @ basis.first.T).trace())
    factor = (float(values.trace()) / now) ** 0.5 if now > 0 else 1.0
    return PairedBasis(basis.first * factor, basis.second / (factor or 1.0), basis.energy)
