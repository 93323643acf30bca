"""To which multiples are kept units rounded, where ``round_to="auto"`` leaves that to the device?"""

from __future__ import annotations

from typing import Any

import torch

from snp.plan.progress import Progress
from snp.settings import PruneSettings
from snp.speed.kept_times import user_table
from snp.speed.multiples import Place, precision_of, with_measured_rounding
from snp.speed.passes import Conditions
from snp.surgery.subject import Subject

__all__ = ["place_of", "with_rounding_of"]


def with_rounding_of(
    subject: Subject, settings: PruneSettings, conditions: Conditions, stages: Progress
) -> tuple[PruneSettings, dict[str, Any]]:
    """The settings with numbers for ``round_to="auto"``, asked of the device of the network, and what was found.

    Args:
        subject: the dense network.
        settings: come back as they are with numbers of the user's.
        conditions: how passes are timed; their precision is that of the caller.
        stages: are told.
    """
    if settings.round_to != "auto":
        return settings, {}
    with stages.stage("ask for multiples"):
        return with_measured_rounding(settings, subject, subject.example, place_of(subject, conditions, subject.device))


def place_of(subject: Subject, conditions: Conditions, device: torch.device) -> Place:
    """Where layers are timed, with what the user's table knows of it.

    Args:
        subject: its network, whose precision counts where the conditions name none.
        conditions: how passes are timed.
        device: what they run on.
    """
    precision = conditions.autocast or precision_of(subject.model)
    return Place(device, precision, conditions.batch, conditions.threads, user_table())
