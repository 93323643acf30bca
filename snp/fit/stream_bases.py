"""In which basis should a residual stream lie, so that leaving some of its directions out costs least?

Norms without weights commute with every rotation of the stream, so all that writes it and all that reads it may be
turned by one matrix, and the network computes what it did. What was measured in the old basis is known in the new one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.core.stream_bases import Site, StreamBasis, stream_basis
from snp.fit.calibration import Measured
from snp.graph.units import Slice, UnitGroup, module_of
from snp.measure.reader import Reader
from snp.measure.sensitivity import measure_sensitivity
from snp.plan.problem import LogitStatistics
from snp.settings import PruneSettings
from snp.surgery.folded_norms import norms_of, turned
from snp.surgery.surgery import with_weights

__all__ = ["in_stream_bases"]


def in_stream_bases(measured: Measured, settings: PruneSettings) -> Measured:
    """The same network, and what was measured of it, with its streams in the bases that suit a cut.

    Args:
        measured: of the dense network; comes back as it is where no stream may be cut.
        settings: of the prune.
    """
    for group in measured.subject.groups:
        if group.kind == "width":
            measured = _turned(measured, group, _basis(measured, group, settings))
    return measured


def _basis(measured: Measured, group: UnitGroup, settings: PruneSettings) -> StreamBasis:
    subject = measured.subject
    places: dict[str, str] = {}
    for member in group.consumers:
        # What reads behind no norm is a place of its own.
        places.setdefault(subject.graph.norms.get(member.tensor) or member.tensor, member.tensor)
    fisher = _sensitivity(measured, group, settings) if settings.needs_sensitivity else {}
    members = {member.tensor: member for member in group.consumers}
    sites = []
    for norm, reader in places.items():
        moments, units = measured.moments[reader].cpu(), members[reader].index[:, 0]
        gram = moments.second.double()[units[:, None], units] / max(moments.count, 1)
        matrix = fisher.get(norm)
        sites.append(Site(gram, None if matrix is None else matrix[units[:, None], units]))
    return stream_basis(sites)


def _sensitivity(measured: Measured, group: UnitGroup, settings: PruneSettings) -> dict[str, Tensor]:
    """How much the output moves with an error behind each norm, by the norm's weight, from half of the samples."""
    subject, inputs = measured.subject, measured.samples.batches
    norms = {
        name: Reader(name, module_of(name), -1, norm.size) for name, norm in norms_of(subject.model, group).items()
    }
    generator = torch.Generator().manual_seed(settings.seed)
    few = inputs[: max(1, (len(inputs) + 1) // 2)]
    found = measure_sensitivity(subject.model, few, norms, generator, objective=measured.asked())
    return {name: matrix.cpu() for name, matrix in found.items()}


def _turned(measured: Measured, group: UnitGroup, basis: StreamBasis) -> Measured:
    subject = measured.subject
    model = with_weights(subject.model, turned(subject.model, group, basis.rows))
    moments, fisher = dict(measured.moments), dict(measured.sensitivity)
    for member in group.consumers:
        old = moments[member.tensor].cpu()
        matrix = _whole(basis.rows, member, len(old.first))
        moments[member.tensor] = Moments(matrix @ old.second @ matrix.T, matrix @ old.first, old.count)
    for member in group.producers:
        if (known := fisher.get(member.tensor)) is not None:
            matrix = _whole(basis.rows, member, len(known)).to(known)
            fisher[member.tensor] = matrix @ known @ matrix.T
    statistics = {group.name: LogitStatistics(basis.energy, basis.weight)}
    return replace(
        measured,
        subject=replace(subject, model=model),
        moments=moments,
        sensitivity=fisher,
        streams={**measured.streams, **statistics},
    )


def _whole(rows: Tensor, member: Slice, size: int) -> Tensor:
    """The change of basis of all that a tensor holds: units that stay keep their places."""
    found, units = torch.eye(size, dtype=torch.float64), member.index[:, 0]
    found[units[:, None], units] = rows
    return found
