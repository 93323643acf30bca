"""What does SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024) leave of a language model, written on our own?

Norms are folded into the layers around them. In front of every norm the stream gets a basis of its own, the principal
components of what the norm gives out, block after block on what the sliced network computes, and the last directions
are left out; bases meet in matrices that stand in the shortcuts. No weight is fitted. The network computes the same in
the old dimensions with a projection in front of every norm, and that is how it stands here; parameters are counted as
it would be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.stream_norms import StreamNorm
from snp.settings import PruneSettings
from snp.surgery.folded_norms import norms_of
from snp.surgery.subject import Survey, survey

__all__ = ["num_directions", "sliced"]


class SlicedNorm(nn.Module):
    """A norm in front of which the stream, shortcut included, is projected to its principal directions.

    Args:
        norm: folded.
        kept: number of directions.
    """

    def __init__(self, norm: StreamNorm, kept: int) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept
        self.register_buffer("projection", None)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Shape [..., C]; the first call looks for the directions."""
        if self.projection is None:
            rows = self.norm(hidden_states).reshape(-1, hidden_states.shape[-1]).double()
            vectors = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -self.kept :]
            self.projection = (vectors @ vectors.T).to(hidden_states)
        # In place: what goes by the branch is the same tensor.
        normed: Tensor = self.norm(hidden_states.copy_(hidden_states @ self.projection))
        return normed


def sliced(model: nn.Module, batches: Sequence[Tensor], share: float) -> nn.Module:
    """The sliced network with that share of the parameters outside embeddings left, or just less.

    Args:
        model: a causal language model of transformers, in evaluation mode; not changed.
        batches: tokens.
        share: of the dense network's parameters outside embeddings, shortcut matrices counted.
    """
    found = survey(model, batches[0][:2], PruneSettings(structures=("width",)))
    kept, changed = num_directions(found, share), found.model
    (group,) = [group for group in found.groups if group.kind == "width"]
    for name, norm in norms_of(changed, group).items():
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        setattr(changed.get_submodule(parent), leaf, SlicedNorm(norm, kept))
    owner: Any = changed
    with torch.inference_mode():
        owner.get_decoder()(torch.cat(list(batches)))
    return changed


def num_directions(found: Survey, share: float) -> int:
    """The most directions that leave no more than a share of the parameters outside embeddings."""
    (group,) = [group for group in found.groups if group.kind == "width"]
    sizes = {name: parameter.numel() for name, parameter in found.model.named_parameters()}
    norms = norms_of(found.model, group)
    outside = {name: size for name, size in sizes.items() if name not in found.graph.embeddings}
    width = next(iter(norms.values())).size
    of_stream = {member.tensor for member in group.members} & outside.keys()
    in_norms = {name for name in outside if name.rpartition(".")[0] in {key.rpartition(".")[0] for key in norms}}

    def left(kept: int) -> float:
        turned = sum(size * kept / width for name, size in outside.items() if name in of_stream - in_norms)
        fixed = sum(size for name, size in outside.items() if name not in of_stream | in_norms)
        return turned + fixed + (len(norms) - 1) * kept**2  # a matrix in every shortcut

    dense = sum(outside.values())
    return max((kept for kept in range(1, width + 1) if left(kept) <= share * dense), default=1)
