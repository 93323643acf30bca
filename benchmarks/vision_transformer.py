"""What is left of a vision transformer with half of its feed-forward units, queries, keys and values, untrained again?

A small ViT (:mod:`small_vit`), trained here on the CIFAR-10 copies and kept in ``--checkpoint``. Each row cuts the
same share of units in every layer; SNP in the paper's form and with all defaults, plain deletion of the units of least
variance, and variance pruning with the mean folded into the bias (VBP). ``--time-deit`` adds time and
peak memory of the whole job on DeiT-S with random weights, whose accuracy would say nothing; ``--seeds`` with nothing
behind it leaves it at that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Batches, accuracy, arguments_of, existing, in_own_process, print_provenance, print_table, spread
from small_vit import Subject, subject_at
from torch import Tensor, nn

import snp
from snp import models
from snp.core.gram import Moments
from snp.measure.moments import MomentCollector
from snp.measure.readers import readers_of
from snp.plan.plan import PruningPlan
from snp.pruning import PruneResult

ATTENTION = ("vo", "qk")
# Row -> share of units that stay, per structure.
CUTS: dict[str, dict[str, float]] = {
    "20 % of FFN units": {"ffn": 0.8},
    "50 % of FFN units": {"ffn": 0.5},
    "50 % of QK and V": {"vo": 0.5, "qk": 0.5},
    "50 % of FFN units, QK and V": {"ffn": 0.5, "vo": 0.5, "qk": 0.5},
}
METHODS: dict[str, dict[str, Any]] = {
    "deletion (variance order)": {"ordering": "variance", "reconstruct": False},
    "VBP (mean into the bias)": {"ordering": "variance", "reconstruct": False},
    "SNP, paper's form": {"ordering": "zca", "calibration": "joint"},
    "SNP, defaults": {"ordering": "output"},
}


@dataclass(frozen=True)
class Outcome:
    """A pruned network's top-1 accuracy in percent, MACs and parameters."""

    acc1_percent: float
    macs: int
    params: int


def mean_folded(dense: nn.Module, result: PruneResult, batches: Batches) -> nn.Module:
    """The cut network with the cut units' means, times their weights, added to the biases of their readers."""
    small, plan = result.model, result.plan
    for name, moments in _moments(dense, plan, batches).items():
        cut = _cut_columns(plan, name)
        bias = small.get_parameter(name.removesuffix("weight") + "bias")
        with torch.no_grad():
            bias += (dense.get_parameter(name).double()[:, cut] @ moments.mean()[cut]).to(bias)
    return small


def _cut_columns(plan: PruningPlan, name: str) -> Tensor:
    parts = [
        member.index[decision.cut].reshape(-1)
        for decision in plan.groups
        for member in decision.group.consumers
        if member.tensor == name
    ]
    return torch.cat(parts)


def _moments(dense: nn.Module, plan: PruningPlan, batches: Batches) -> Mapping[str, Moments]:
    graph = snp.graph.analyse(dense, batches[0][0][:2], ("ffn", *ATTENTION))
    readers = readers_of(dense, graph, [decision.group for decision in plan.groups])
    with torch.no_grad(), MomentCollector(dense, readers) as collector:
        for images, _ in batches:
            dense(images)
    return collector.moments


def pruned(subject: Subject, shares: Mapping[str, float], method: str, batches: Batches, seed: int) -> Outcome:
    """The network with that share of units in every layer."""
    share = next(iter(shares.values()))
    result = snp.prune(
        subject.model, batches, structures=tuple(shares), target_units=share, round_to=1, seed=seed, **METHODS[method]
    )
    small = mean_folded(subject.model, result, batches) if method.startswith("VBP") else result.model
    return Outcome(accuracy(small, subject.test), result.plan.macs["pruned"], result.plan.params["pruned"])


def time_deit(samples: int) -> list[list[str]]:
    """Seconds and MiB of the whole job on DeiT-S at 224 pixels, each method in a process of its own."""
    rows = []
    for method in ("SNP, paper's form", "SNP, defaults"):
        (seconds, cpu_seconds, share, check), peak = in_own_process(_deit_job, samples, method)
        rows.append([method, f"{seconds:.0f}", f"{cpu_seconds:.0f}", f"{peak:.0f}", f"{share:.3f}", f"{check:.1e}"])
        print(*rows[-1], sep="  ", flush=True)
    return rows


def _deit_job(samples: int, method: str) -> tuple[float, float, float, float]:
    """Seconds by the clock and of the processor, share of the MACs that is left, and the self-check."""
    model = models.build("timm", {"model_name": "deit_small_patch16_224"}, num_classes=1000).eval()
    batches = list(torch.randn(samples, 3, 224, 224, generator=torch.Generator().manual_seed(0)).split(8))
    started, cpu_started = time.perf_counter(), time.process_time()
    result = snp.prune(model, batches, structures=("ffn", *ATTENTION), target_units=0.5, **METHODS[method])
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return seconds, cpu_seconds, result.plan.macs["pruned"] / result.plan.macs["dense"], result.check


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="file of the trained weights; made where it is not there")
    parser.add_argument("--samples", type=int, default=1024, help="calibration images")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the calibration subset; none: no table"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--time-deit", type=int, default=0, metavar="IMAGES", help="also time DeiT-S on so many")
    return parser.parse_args(words)


def accuracies(options: argparse.Namespace) -> None:
    """The table of what is left."""
    subject = subject_at(existing(options.data, "--data"), options.checkpoint)
    dense = accuracy(subject.model, subject.test)
    calibration = {seed: subject.calibration(options.samples, seed) for seed in options.seeds}
    rows = [["dense", "", f"{dense:.2f}", "", ""]]
    for cut, shares in CUTS.items():
        for method in options.methods:
            found = [pruned(subject, shares, method, calibration[seed], seed) for seed in options.seeds]
            kept = [one.acc1_percent for one in found]
            of_dense = f"{100 * sum(kept) / len(kept) / dense:.1f}"
            rows.append([cut, method, spread(kept), of_dense, f"{found[0].macs / 1e6:.1f}"])
            print(*rows[-1], sep="  ", flush=True)
    print("\nSmall ViT, CIFAR-10, no fine-tuning")
    print_table(["cut", "method", "top-1 %", "% of dense", "M MACs"], rows)
    print(f"spread: mean (smallest to largest) over subsets of {options.samples} calibration images")


def main() -> None:
    options = options_of()
    if options.seeds:
        accuracies(options)
    if options.time_deit:
        rows = time_deit(options.time_deit)
        print(f"\nDeiT-S, random weights, half of all units, {options.time_deit} images")
        print_table(["method", "s", "CPU s", "peak MiB", "MACs left", "self-check"], rows)
    print_provenance()


if __name__ == "__main__":
    main()
