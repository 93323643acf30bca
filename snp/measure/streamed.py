"""How is a large network calibrated block by block, so that one block's activations and moments are in memory?

All batches go through one block of the network before the next: what is kept between blocks is one hidden state per
batch. A block's moments go to disk when it is done, and come back one at a time when units are chosen and weights
folded. Everything else is the code of the usual path, so plans are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from snp.core.gram import Moments
from snp.core.sums import ALONE, Sums
from snp.graph.batches import Batch
from snp.measure.blocks import Call, at_first_block, blocks_of, refuse_other_blocks
from snp.measure.moments import MomentCollector
from snp.measure.outputs import first_tensor
from snp.measure.readers import Reader
from snp.measure.visiting import STAYS, Visits
from snp.settings import PruneSettings

__all__ = ["MomentsOnDisk", "refuse_streaming", "stream_moments"]


class MomentsOnDisk(Mapping[str, Moments]):
    """Moments by weight name, in files of a folder; one is in memory while it is looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}

    def add(self, name: str, moments: Moments) -> None:
        """Write the moments of one reader."""
        path = self._folder / f"{len(self._files)}.safetensors"
        count = torch.tensor(moments.count)
        tensors = {"second": moments.second.contiguous(), "first": moments.first.contiguous(), "count": count}
        save_file(tensors, path, {"weight": name})
        self._files[name] = path

    def __getitem__(self, name: str) -> Moments:
        tensors = load_file(self._files[name])
        return Moments(tensors["second"], tensors["first"], int(tensors["count"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def refuse_streaming(settings: PruneSettings) -> None:
    """Streamed calibration has one block at a time in memory.

    Raises:
        ValueError: the settings need more than that.
    """
    if settings.needs_trials:
        raise ValueError(
            "prune.trials=true cuts groups of the whole network on trial, and streamed calibration has one block at a "
            "time in memory: ask for prune.trials=false, or calibrate without streaming"
        )
    if settings.is_tuned:
        raise ValueError(
            "prune.reconstruct=tuned trains a second network beside the dense one, which streamed calibration is there "
            "to avoid; ask for prune.reconstruct=true, or calibrate without streaming"
        )
    if settings.target.is_timed:
        raise ValueError(
            "prune.target_latency: streamed calibration holds no second network to time; ask for prune.target_macs or "
            "prune.target_params, or calibrate without streaming"
        )
    if (structures := list(settings.cut_structures)) != ["ffn"]:
        raise ValueError(
            f"prune.structures={structures}: streamed calibration turns neither attention heads nor the "
            "stream into the bases that suit a cut; ask for prune.structures=['ffn'], or calibrate without streaming"
        )


def stream_moments(
    model: nn.Module,
    batches: Sequence[Batch],
    readers: Mapping[str, Reader],
    folder: Path | None,
    product_dtype: torch.dtype = torch.float64,
    sums: Sums = ALONE,
    visits: Visits = STAYS,
) -> Mapping[str, Moments]:
    """Moments of all readers, block after block.

    Every block takes the hidden state first and gives it out first; what it takes beside that (masks, positions) is
    the same for all blocks, as in the transformers of `transformers` and timm. A first pass of a few samples tells
    whether that holds.

    Args:
        model: in evaluation mode.
        batches: inputs where the model is; the share of this process.
        readers: what is measured, all of it inside the blocks.
        folder: where the moments go; None on a process that keeps none.
        product_dtype: precision of the products within a batch.
        sums: over all processes, each of which has the whole network.
        visits: where blocks visit a device, inputs and hidden states wait in main memory like the network.

    Raises:
        ValueError: there are no such blocks.
    """
    blocks, found = blocks_of(model, readers), None if folder is None else MomentsOnDisk(folder)
    with torch.no_grad(), visits.of(model):
        refuse_other_blocks(model, blocks, batches[0].example())
        calls = [at_first_block(model, blocks[0], batch).at_rest(visits) for batch in batches]
        for name in blocks:
            own = {weight: reader for weight, reader in readers.items() if f"{reader.module}.".startswith(f"{name}.")}
            with MomentCollector(model, own, product_dtype) as collector:
                calls = _behind(model.get_submodule(name), calls, batches, collector, visits)
            for weight, moments in collector.moments.items():
                total = sums.moments(moments)
                if found is not None:
                    found.add(weight, total.cpu())
    return {} if found is None else found


def _behind(
    block: nn.Module, calls: list[Call], batches: Sequence[Batch], collector: MomentCollector, visits: Visits
) -> list[Call]:
    """What the next block is called with. Every call is let go of as soon as it is answered."""
    for number, batch in enumerate(batches):
        with collector.of_batch(batch):
            hidden = first_tensor(block(*calls[number].args, **calls[number].kwargs))
            calls[number] = calls[number].behind(visits.at_rest(hidden))
    return calls
