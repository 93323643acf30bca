"""Are the arguments of a call of the library of the right kind?  What is not is named, with what to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from reprlib import repr as shown  # in a line, however long it is
from typing import Any

from torch import nn

from snp.core.presets import refuse_overruled
from snp.graph.copies import refuse_meta
from snp.settings import PruneSettings

__all__ = ["settings_of"]


def settings_of(model: object, settings: object, options: Mapping[str, Any], batches: object = ()) -> PruneSettings:
    """The settings of a call, single options among them.

    Args:
        model: what the call is given as a network.
        settings: all options at once, None for those by default.
        options: single ones, which win.
        batches: what it is given as batches.

    Raises:
        TypeError: the network, the settings or the batches are of another kind.
        ValueError: an option has no such value, or the network holds no weights.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, found {shown(model)}: build the network and give it itself")
    refuse_meta(
        model,
        "load the weights before (model.to_empty(device=...) and load_state_dict, or the network without offloading)",
    )
    if settings is not None and not isinstance(settings, PruneSettings):
        raise TypeError(
            f"settings must be a snp.PruneSettings, found {shown(settings)}: give single options as keywords, as "
            "target_macs=0.5, or unpack a mapping of them with **"
        )
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise TypeError(
            "batches must be an iterable of batches, such as a data loader or a list of tensors, found "
            f"{shown(batches)}"
        )
    asked = replace(settings or PruneSettings(), **options)
    refuse_overruled(asked, options)
    if asked.dry_run:
        raise ValueError("dry_run belongs to the command line; snp.inspect(model, batch) lists the groups of a network")
    return asked
