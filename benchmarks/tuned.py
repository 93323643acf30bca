"""What does label-free tuning add to the closed form?  ResNet-56 on CIFAR-10, both from the same calibration images.

    python benchmarks/tuned.py --data PATH
    python benchmarks/tuned.py --data PATH --deit FILE --target-macs 0.4 --samples 512

Rows named "tuned" are trained: by gradient steps on the dense network's outputs for the calibration images, without
labels. With ``--deit`` the network is DeiT-tiny. Needs ``cifar10/train.tar`` and ``test.tar`` in the data folder, and
the checkpoint.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from blocks import deit_at
from cifar_resnet56 import Subject, subject_at
from harness import Batches, accuracy, arguments_of, existing, print_provenance, print_table
from torch import nn

import snp
from snp.plan.plan import PruningPlan
from snp.settings import PruneSettings

HEADER = ("network", "M MACs", "top-1 %", "from dense, held back", "CPU s")


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="safetensors file, by default DATA/../models")
    parser.add_argument("--deit", type=Path, help="weights of DeiT-tiny for 32 pixels in patches of 4, safetensors")
    parser.add_argument("--target-macs", type=float, nargs="+", default=[0.476, 0.333], help="shares that are left")
    parser.add_argument(
        "--epochs", type=int, nargs="*", default=[None], help="of tuning, a row each; the library's own without"
    )
    parser.add_argument("--keep", type=Path, help="folder for the closed forms, which are found there again")
    parser.add_argument("--optimizer", default=PruneSettings().tune_optimizer, help="of tuning: auto, sgd, adamw")
    parser.add_argument("--rate", type=float, help="of tuning, at its peak; the optimizer's own without")
    parser.add_argument("--views", default="auto", help="how tuning shows images: auto, both, mirror, shift, none")
    parser.add_argument("--closed", action=argparse.BooleanOptionalAction, default=True, help="a row without tuning")
    parser.add_argument("--dense", action=argparse.BooleanOptionalAction, default=True, help="score it, too")
    parser.add_argument("--samples", type=int, default=1024, help="calibration images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(words)


def rows_of(subject: Subject, options: argparse.Namespace, target: float) -> Iterator[tuple[str, ...]]:
    """The closed form, and one row for each number of epochs of tuning, each a prune of its own."""
    batches = [(one.to(options.device), y) for one, y in subject.calibration(options.samples, options.seed)]
    settings = PruneSettings(target_macs=target, seed=options.seed)
    if options.closed:
        closed, plan, spent = closed_form(subject, batches, settings, options.keep)
        yield _row(f"{target:g} of the MACs, closed form", _macs(plan), subject, closed, "-", spent)
    for epochs in options.epochs:
        began = time.process_time()
        result = snp.prune(
            subject.model, batches, settings, reconstruct="tuned", tune_epochs=epochs, tune_rate=options.rate,
            tune_optimizer=options.optimizer, tune_views=options.views, progress=False,
        )  # fmt: skip
        spent, tuned = time.process_time() - began, result.tuned
        assert tuned is not None
        apart = f"{tuned.distances[0]:.4f} -> {tuned.distances[tuned.epoch]:.4f} (epoch {tuned.epoch})"
        steps = f"{tuned.steps.optimizer} at {tuned.steps.rate:g} in the end"
        name = f"{target:g}, tuned {tuned.steps.epochs} epochs, {steps}, {tuned.views}"
        yield _row(name, _macs(result.plan), subject, result.model, apart, spent)


def _macs(plan: PruningPlan) -> str:
    """In millions."""
    return f"{plan.macs['pruned'] / 1e6:.2f}"


def closed_form(
    subject: Subject, batches: Batches, settings: PruneSettings, keep: Path | None
) -> tuple[nn.Module, PruningPlan, float | None]:
    """The pruned network, its plan and the processor seconds it took; None where it was kept by an earlier call."""
    place = keep and keep / f"macs_{settings.target_macs:g}_seed_{settings.seed}_samples_{len(batches)}"
    if place and (place / "pruned.safetensors").is_file():
        return snp.load(place, subject.model), PruningPlan.load(place / "plan.json"), None
    began = time.process_time()
    result = snp.prune(subject.model, batches, settings, progress=False)
    spent = time.process_time() - began
    if place:
        snp.save(result, place)
    return result.model, result.plan, spent


def _row(
    name: str, macs: str, subject: Subject, model: nn.Module, apart: str, seconds: float | None
) -> tuple[str, ...]:
    row = (name, macs, f"{accuracy(model, subject.test):.2f}", apart, "kept" if seconds is None else f"{seconds:.0f}")
    print(" | ".join(row), flush=True)  # the whole table takes minutes
    return row


def main() -> None:
    options = options_of()
    data = existing(options.data, "--data")
    subject = deit_at(data, options.deit) if options.deit else subject_at(data, options.checkpoint, options.device)
    rows = [_row("dense", "-", subject, subject.model, "-", 0.0)] if options.dense else []
    for target in options.target_macs:
        rows += rows_of(subject, options, target)
    name = "DeiT-tiny" if options.deit else "ResNet-56"
    print(f"\n{name}, CIFAR-10, {options.samples} calibration images, seed {options.seed}")
    print_table(HEADER, rows)
    print("closed form: no training. tuned: trained on the dense network's outputs for the same images, no labels.")
    print("from dense: what tuning makes smaller, on calibration images that neither it nor its start was fitted on.")
    print("CPU s: of the whole prune, in a tuned row with its own least-squares start.")
    print_provenance()


if __name__ == "__main__":
    main()
