"""Which samples does each process see, so that together they see every sample exactly once?"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


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
