"""Does a prune see that half of all units are copies of the others?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fuzzing.dense_again import Plan, owned
from fuzzing.measures import distance, double, hold, outputs
from fuzzing.networks import Sample


def found_copies(dense: nn.Module, small: nn.Module, plan: Plan, sample: Sample, asked: dict[str, Any]) -> None:
    """Half of all units are copies, half go: what readers give out can still be had from the units that stay."""
    exact, batch = copy.deepcopy(dense).double(), double(sample.inputs)
    for group in plan.text["groups"]:
        kept = set(group["kept"])
        for member in group["consumers"]:
            lost = _least_loss(exact, member, [u in kept for u in range(group["num_units"])], batch)
            hold(
                "copies found", lost < 1e-4, f"{group['name']}: {lost:.1e} of what {member['tensor']} gives out is lost"
            )
    if asked["calibration"] == "joint" and asked.get("ridge") == 0.0:
        moved = distance(outputs(dense, sample.unseen), outputs(small, sample.unseen))
        hold("copies folded", moved < 1e-2, f"outputs moved by {moved:.1e} of their spread")


def _least_loss(exact: nn.Module, member: dict[str, Any], kept: list[bool], batch: Tensor) -> float:
    """How much of a reader's output no fit from the kept units gives, as a share of its energy."""
    module, seen = exact.get_submodule(member["tensor"].rpartition(".")[0]), []
    hook = module.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    try:
        outputs(exact, batch)
    finally:
        hook.remove()
    is_linear = isinstance(module, nn.Linear)
    columns = torch.cat([part.movedim(-1 if is_linear else 1, -1).flatten(0, -2) for part in seen])
    order = [owned(member, unit) for unit in range(len(kept))]
    stays = [index for unit, indices in enumerate(order) if kept[unit] for index in indices]
    all_of_them = [index for indices in order for index in indices]
    if any(isinstance(module, kind) and module.groups > 1 for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return 0.0
    weight = module.weight.detach().movedim(1, 0).flatten(1)  # [C, O ...]
    wanted = columns[:, all_of_them] @ weight[all_of_them]
    basis = torch.linalg.svd(columns[:, stays], full_matrices=False)
    directions = basis.U[:, 1e-9 * basis.S.max() < basis.S]
    rest = wanted - directions @ (directions.T @ wanted)
    return float(rest.square().sum() / wanted.square().sum().clamp_min(1e-12))
