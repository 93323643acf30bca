"""Which samples does each process see, and in which order?  Every sample once, or shuffled by nothing but the epoch."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


def num_processes() -> int:
    """Of the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class ExactlyOnceSampler(DistributedSampler[Any]):
    """Gives rank r the blocks r, r + world, r + 2 world, ...: nothing repeated, nothing left out, nothing shuffled.

    The stock sampler repeats samples until all ranks have the same number, which counts those samples twice in
    statistics and accuracies. Ranks may therefore have one sample more or less than others, so no collective may run
    per batch. It is a `DistributedSampler` because Lightning replaces every other sampler.

    Args:
        dataset: any data set with a length.
        block: so many neighbouring samples stay together; the last block may have fewer.
        num_replicas: number of processes; None for that of the default process group.
        rank: this process, in [0, num_replicas); None for that of the default process group.
    """

    def __init__(
        self, dataset: Dataset[Any], block: int = 1, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.block = block

    def __iter__(self) -> Iterator[Any]:
        return iter(self._indices())

    def __len__(self) -> int:
        return len(self._indices())

    def _indices(self) -> list[int]:
        total = len(self.dataset)  # type: ignore[arg-type]
        starts = range(self.rank * self.block, total, self.num_replicas * self.block)
        return [index for start in starts for index in range(start, min(start + self.block, total))]


class EpochShuffle(DistributedSampler[Any]):
    """Shuffles by seed and epoch alone, so that training goes on after an interruption as it would have without one.

    Lightning says which epoch begins. The generator is for the loader: it seeds the processes that load samples.

    Args:
        dataset: any data set with a length.
        seed: same seed, same order in every epoch.
        epoch: the first one.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int = 0) -> None:
        replicas, rank = num_processes(), dist.get_rank() if num_processes() > 1 else 0
        super().__init__(dataset, num_replicas=replicas, rank=rank, shuffle=True, seed=seed)
        self.generator = torch.Generator()
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        super().set_epoch(epoch)
        self.generator.manual_seed(self.seed + 7919 * epoch + self.rank)
