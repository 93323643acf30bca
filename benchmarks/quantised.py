"""Do cutting units and whole numbers of 8 bits add up?  Accuracy, time and size of dense, pruned, int8, and both.

Open question 3 of the paper. All four networks are ONNX files that ONNX Runtime scores and times on the CPU: dense and
pruned as exported, and the int8 form of each (`snp.export.int8`, ranges of activations from calibration images).
Nothing is fine-tuned. Times are taken in turns, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from harness import Batches, accuracy, arguments_of, existing, print_provenance, print_table, spread
from ladder import networks
from torch import Tensor, nn

import snp
from snp.export import export_onnx, quantise
from snp.export.programs import session_of
from snp.speed.timing import time_in_turns

SHARES = {"resnet56": 0.476, "efficientnet_lite0": 0.8}  # of the MACs, as asked of cuts without fine-tuning
FORMS = ("dense", "pruned", "int8", "pruned + int8")
_BATCH = 100


@dataclass
class Found:
    """What one form of a network gave, an entry per seed; speed-ups are over the dense form, neighbours in time."""

    top1: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    speedups: list[float] = field(default_factory=list)


class Scored(nn.Module):
    """An ONNX file as a module, so that it is scored like every other network."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W)."""
        return self.run(images)


def files_of(network: networks.Network, share: float, seed: int, options: Namespace, folder: Path) -> dict[str, Path]:
    """The four ONNX files, by form."""
    calibration = network.calibration(seed)
    samples = _some_of(calibration, options.ranges)
    settings = {"target_macs": share, "seed": seed, "round_from": options.round_from}
    small = snp.prune(network.model, calibration, **settings).model.eval()
    example = calibration[0][0][:4]
    files = {form: folder / f"{form.replace(' ', '')}.onnx" for form in FORMS}
    for form, model in (("dense", network.model), ("pruned", small)):
        export_onnx(model, example, files[form])
        whole = files["int8" if form == "dense" else "pruned + int8"]
        quantise(files[form], whole, samples)
    return files


def _some_of(batches: Batches, count: int) -> list[Tensor]:
    """A fixed random choice of so many images, or all of them where there are no more, in batches."""
    images = torch.cat([images for images, _ in batches])
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return list((images if count >= len(images) else images[chosen]).split(_BATCH))


def measure(name: str, network: networks.Network, seed: int, options: Namespace, found: dict[str, Found]) -> None:
    """Score and time the four forms for one seed, and add what came out to ``found``."""
    with tempfile.TemporaryDirectory() as folder:
        files = files_of(network, SHARES[name], seed, options, Path(folder))
        runs = {form: session_of(path) for form, path in files.items()}
        test: Batches = network.test(seed)
        images = torch.cat([images for images, _ in test])[: options.batch_size]
        calls: dict[str, Callable[[], object]] = {form: partial(run, images) for form, run in runs.items()}
        times = time_in_turns(calls, min_rounds=options.rounds, min_seconds=0.0)
        for form, path in files.items():
            own = found[form]
            own.top1.append(accuracy(Scored(runs[form]), test))
            own.mib.append(sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) / 2**20)
            own.ms += [1e3 * seconds for seconds in times[form].wall]
            own.speedups += [a / b for a, b in zip(times["dense"].wall, times[form].wall, strict=True)]
            print(f"{name} seed {seed}: {form} {own.top1[-1]:.2f} %", flush=True)


def row_of(form: str, own: Found) -> list[str]:
    """A line of the table."""
    low, middle, high = statistics.quantiles(own.speedups, n=4)
    times = [f"{statistics.median(own.ms):.1f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
    return [form, spread(own.top1), f"{statistics.fmean(own.mib):.2f}", *times]


def options_of(words: list[str] | None = None) -> Namespace:
    """The command line."""
    parser = arguments_of((__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of calibration; EfficientNet: halves")
    parser.add_argument("--ranges", type=int, default=250, help="calibration images that show ranges of activations")
    parser.add_argument("--round-from", type=int, help="prune.round_from: how wide groups with rounded counts are")
    parser.add_argument("--batch-size", type=int, default=8, help="images per timed pass")
    parser.add_argument("--rounds", type=int, default=51, help="timed passes of each form and seed, in turns")
    return parser.parse_args(words)


def main() -> None:
    """Print a table per network."""
    options = options_of()
    data = existing(options.data, "--data")
    for name in options.networks:
        network = networks.load(name, data, None)
        found = {form: Found() for form in FORMS}
        for seed in options.seeds:
            measure(name, network, seed, options, found)
        print(f"\n{networks.NETWORKS[name].about}; pruned: {SHARES[name]:g} of the MACs, defaults, not fine-tuned")
        header = ["form", "top-1 %", "file MiB", f"ms for {options.batch_size}", "times faster than dense"]
        print_table(header, [row_of(form, own) for form, own in found.items()])
    print("top-1: mean (smallest to largest) over seeds; times: medians and quartiles over passes of all seeds, wall")
    print("clock, ONNX Runtime on one thread; ratios are of neighbouring passes")
    print_provenance()


if __name__ == "__main__":
    main()
