"""Which parts of a fine-tuning recipe recover what a cut lost?  ResNet-56 on CIFAR-10, a short training for each.

Every recipe sees the same images in the same order, from the same pruned network; each row adds to the one before. The
dense network, trained alike, says how much of a gain is more training. Needs ``cifar10/train.tar`` and ``test.tar`` in
the data folder, and the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from cifar_resnet56 import Subject, subject_at
from harness import accuracy, arguments_of, existing, print_provenance, print_table
from pytorch_lightning import Trainer
from torch import nn
from tuned import closed_form

from snp.run.folder import RunFolder
from snp.run.trainer import JobTrainer
from snp.run.training.cut_size import cut_size
from snp.run.training.recipe import TrainingRecipe
from snp.settings import PruneSettings

BATCH = 128
# Name of a step -> what it changes beside the steps before it.
STEPS: dict[str, dict[str, float | str]] = {
    "labels alone, 0.01, cosine to zero": {"learning_rate": 0.01, "schedule": "cosine"},
    "0.05 instead": {"learning_rate": 0.05},
    "and warm-up over a tenth": {"warmup_epochs": 0.1},
    "and a line to zero": {"schedule": "linear"},
    "and half of the loss by the dense network": {"distil": 0.5},
    "and averaged weights": {"average": 0.9},
    "0.03 instead: the defaults": {"learning_rate": 0.03},
    "AdamW at 0.001 instead": {"optimizer": "adamw", "learning_rate": 0.001},
}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="safetensors file, by default DATA/../models")
    parser.add_argument("--target-macs", type=float, default=0.476, help="share that is left")
    parser.add_argument("--epochs", type=int, default=2, help="of every training")
    parser.add_argument("--images", type=int, default=4000, help="of every epoch, others in each")
    every = list(range(len(STEPS)))
    parser.add_argument("--steps", type=int, nargs="*", default=every, choices=every, help="recipes, from 0")
    parser.add_argument("--dense", type=int, nargs="*", default=[5], choices=every, help="for the dense network")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="that trains")
    parser.add_argument("--keep", type=Path, help="folder for the closed form, which is found there again")
    parser.add_argument("--samples", type=int, default=1024, help="calibration images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def recipes_of(epochs: int) -> dict[str, TrainingRecipe]:
    """Step by step; warm-up is told in shares of the whole."""
    found, recipe = {}, TrainingRecipe(epochs=epochs, learning_rate=0.01)
    for name, changed in STEPS.items():
        scaled = {key: value * epochs if key == "warmup_epochs" else value for key, value in changed.items()}
        recipe = replace(recipe, **scaled)  # type: ignore[arg-type]
        found[name] = recipe
    return found


def trained(subject: Subject, model: nn.Module, recipe: TrainingRecipe, options: argparse.Namespace) -> nn.Module:
    """A copy after its training."""
    student = copy.deepcopy(model)
    trainer = partial(
        Trainer, accelerator=options.accelerator, devices=1, limit_train_batches=options.images // BATCH,
        limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        bench = JobTrainer(subject.data, trainer, [], RunFolder(folder))
        bench.fit(student, recipe, subject.model, options.seed)
    return student.eval()


def main() -> None:
    options = options_of()
    subject = subject_at(existing(options.data, "--data"), options.checkpoint)
    assert subject.data.batch_size == BATCH, subject.data.batch_size
    batches = subject.calibration(options.samples, options.seed)
    settings = PruneSettings(target_macs=options.target_macs, seed=options.seed)
    pruned, plan, _ = closed_form(subject, batches, settings, options.keep)
    print(f"size of the cut, as ALLR has it: {cut_size(subject.model, plan):.3f}", flush=True)
    rows: list[tuple[str, ...]] = []
    recipes = list(recipes_of(options.epochs).items())
    asked = [(name, pruned, recipe) for name, recipe in (recipes[number] for number in options.steps)]
    for number in options.dense:
        name, recipe = recipes[number]
        asked.append((f"dense, trained alike ({name})", subject.model, recipe))
    for name, model, recipe in asked:
        began = time.perf_counter()
        student = trained(subject, model, recipe, options)
        spent = time.perf_counter() - began
        rows.append((name, f"{accuracy(student, subject.test):.2f}", f"{spent:.0f}"))
        print(" | ".join(rows[-1]), flush=True)  # the whole table takes minutes
    print(
        f"\nResNet-56, CIFAR-10, {options.target_macs:g} of the MACs, {options.epochs} epochs of "
        f"{options.images // BATCH * BATCH} images each, batch {BATCH}, SGD, seed {options.seed}"
    )
    print_table(("recipe", "top-1 %", "seconds"), rows)
    print_provenance()


if __name__ == "__main__":
    main()
