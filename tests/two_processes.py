"""What do two processes measure together?  A script: Lightning starts it again for the second process.

`python -m tests.two_processes FOLDER` leaves `moments<rank>.safetensors` and `found<rank>.json` of each process there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import nn

from snp.data.digits import Digits
from snp.measure.readers import Reader
from snp.models.sources.weights import fingerprint
from snp.run.calibrate import CalibrationCallback, CalibrationSettings, write_moments
from snp.run.folder import RunFolder
from snp.run.loggers import quiet_libraries
from snp.run.processes import destroy_group, from_first
from snp.run.trainer import JobTrainer
from snp.run.training.learner import Classifier
from snp.run.training.recipe import TrainingRecipe

SAMPLES = 65  # odd: one process has one sample more; the 359 test images are odd, too
READERS = {"5.weight": Reader("5.weight", "5", -1, 64), "7.weight": Reader("7.weight", "7", -1, 12)}


def trainer(num_processes: int, **keywords: Any) -> Trainer:
    """What conf/trainer/ddp_cpu.yaml makes, bars included."""
    strategy = "ddp" if num_processes > 1 else "auto"
    quiet: dict[str, Any] = {"enable_model_summary": False, "num_sanity_val_steps": 0}
    # Validation would hide that statistics of norms drift apart: DDP copies them before each forward pass.
    quiet["limit_val_batches"] = 0
    return Trainer(accelerator="cpu", devices=num_processes, strategy=strategy, **quiet, **keywords)


def network() -> nn.Module:
    """Running statistics of the norm are those of each process's own batches."""
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def measure(folder: Path, num_processes: int, rank: int) -> None:
    """Calibrate and score an untrained network; then train, and see whether the processes still agree."""
    quiet_libraries()
    seed_everything(0, verbose=False)
    model = network().eval()
    data = Digits(batch_size=16)
    data.configure(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    run = RunFolder(folder / "run")
    bench = JobTrainer(data, lambda **keywords: trainer(num_processes, **keywords), [], run)
    callback = CalibrationCallback(READERS, CalibrationSettings(samples=SAMPLES))
    bench.forward(model, SAMPLES, 0, callback)
    write_moments(callback.moments, folder / f"moments{rank}.safetensors", {})
    recipe = TrainingRecipe(epochs=1, learning_rate=0.05)
    scorer = trainer(num_processes, logger=False, enable_checkpointing=False)
    accuracy = scorer.test(Classifier(model, 10, recipe), datamodule=data, verbose=False)[0]["test/acc1_percent"]
    bench.score("dense", model)
    bench.fit(model, recipe)
    found = {
        "scored": {name: run.metrics.get(name) for name in ("test/samples", "dense/acc1_percent")},
        "samples": callback.samples,
        "accuracy": accuracy,
        "decided_by": from_first(lambda: f"process {rank}"),
        "trained": fingerprint(model),
    }
    (folder / f"found{rank}.json").write_text(json.dumps(found))
    destroy_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure(Path(sys.argv[1]), 2, int(os.environ.get("LOCAL_RANK", "0")))
