"""Does a group hold everything that its units touch?  The proof by changing what must not matter.

Zero what readers take from some units, then change everything that computes these units: the output must not move.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.grouped_kernels import contracted, expanded
from snp.graph.units import Slice, UnitGroup

__all__ = ["audit", "control", "outputs", "randomise"]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of its own; fresh networks hide errors behind zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or (tensor.ndim == 0 and not isinstance(tensor, nn.Parameter)):
                continue
            noise = torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
            if name.endswith(("running_var", "gamma")) or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(0.5 + noise)
            elif tensor.ndim <= 1:
                tensor.copy_(noise - 0.5)
            elif not bool(tensor.any()):
                tensor.copy_(0.1 * (noise - 0.5))
    return model.eval()


def outputs(model: nn.Module, batch: object) -> Tensor:
    """All output tensors in one row, float64; under one seed, as some networks are random in evaluation, too."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        leaves = [
            leaf for leaf in pytree.tree_leaves(Batch.of(batch).beside(model).call(model)) if isinstance(leaf, Tensor)
        ]
    return torch.cat([leaf.double().reshape(-1) for leaf in leaves])


def audit(model: nn.Module, groups: Sequence[UnitGroup], batch: object, seed: int = 0) -> float:
    """Movement of the output relative to its largest value, with a random third of each group's units replaced."""
    units = _third(groups, seed)
    with _restored(model, groups):
        _fill(model, groups, units, ("consumers",), None)
        before = outputs(model, batch)
        _fill(model, groups, units, ("producers", "others"), torch.Generator().manual_seed(seed))
        after = outputs(model, batch)
    return float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))


def control(model: nn.Module, groups: Sequence[UnitGroup], batch: object, seed: int = 0) -> float:
    """The same movement with the readers left as they are: an audit that cannot move proves nothing."""
    units = _third(groups, seed)
    with _restored(model, groups):
        before = outputs(model, batch)
        _fill(model, groups, units, ("producers", "others"), torch.Generator().manual_seed(seed))
        after = outputs(model, batch)
    return float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))


def _third(groups: Sequence[UnitGroup], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(g.num_units, generator=generator)[: max(1, g.num_units // 3)] for g in groups]


def _members(group: UnitGroup, roles: Sequence[str]) -> list[Slice]:
    return [member for role in roles for member in getattr(group, role)]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


@contextmanager
def _restored(model: nn.Module, groups: Sequence[UnitGroup]) -> Iterator[None]:
    tensors = _tensors(model)
    names = {member.tensor for group in groups for member in group.members}
    saved = {name: copy.deepcopy(tensors[name].detach()) for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                tensors[name].copy_(value)


def _fill(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    units: Sequence[Tensor],
    roles: Sequence[str],
    generator: torch.Generator | None,
) -> None:
    """Zeros without a generator, else random values of the size that was there (variances stay positive).

    Not larger: through the identities of a deep stream larger values grow beyond what numbers can hold.
    """
    tensors = _tensors(model)
    with torch.no_grad():
        for group, chosen in zip(groups, units, strict=True):
            for member in _members(group, roles):
                tensor, indices = tensors[member.tensor], member.index[chosen].reshape(-1)
                whole = expanded(tensor, member.num_blocks)
                part = whole.index_select(member.dim, indices)
                if generator is None:
                    part = torch.zeros_like(part)
                else:
                    factor = (torch.rand(part.shape, generator=generator) + 0.5).to(part.dtype)
                    if not member.tensor.endswith("running_var"):
                        factor *= torch.randint(0, 2, part.shape, generator=generator) * 2 - 1
                    part = (part.abs() + 0.1 * tensor.abs().mean()) * factor
                tensor.copy_(contracted(whole.index_copy(member.dim, indices, part), member.num_blocks))
