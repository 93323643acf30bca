"""Does training follow its recipe, and is every test sample scored exactly once?"""

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from snp.finetune import Classifier, TrainingRecipe, parameter_groups
from snp.training_recipe import learning_rate_factor

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*"
)


def make_net(seed: int = 0, num_classes: int = 10) -> nn.Sequential:
    """A small convolutional network for 8 by 8 images."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, num_classes),
    )  # fmt: skip


def digits(part: slice) -> TensorDataset:
    """Real handwritten digits as (1, 8, 8) images in [0, 1]."""
    data = load_digits()
    images = torch.tensor(data.images[part] / 16, dtype=torch.float32).unsqueeze(1)
    return TensorDataset(images, torch.tensor(data.target[part]))


TRAIN, TEST = slice(0, 1400), slice(1400, 1797)


def make_trainer(folder: Path, epochs: int, **settings: object) -> Trainer:
    """A quiet trainer on one CPU."""
    return Trainer(
        **{
            "max_epochs": epochs, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder, **settings,
        }
    )  # fmt: skip


def fit(folder: Path, recipe: TrainingRecipe, *, model: nn.Module | None = None, **settings: object) -> Classifier:
    """Train on the digits; return the classifier."""
    torch.manual_seed(0)
    classifier = Classifier(model or make_net(), 10, recipe)
    loader = DataLoader(digits(TRAIN), batch_size=100, shuffle=True)
    make_trainer(folder, recipe.epochs, **settings).fit(classifier, loader)
    return classifier


def accuracy_by_hand(model: nn.Module, data: TensorDataset, top_k: int = 1) -> float:
    """Top-k accuracy in percent, counted without any library."""
    images, labels = data.tensors
    model.eval()
    with torch.no_grad():
        best = model(images).topk(top_k).indices
    return 100 * (best == labels[:, None]).any(1).double().mean().item()


@pytest.mark.parametrize(
    ("optimizer", "rate", "schedule", "milestones"),
    [("sgd", 0.1, "cosine", ()), ("adamw", 0.01, "multistep", (2, 3)), ("sgd", 0.05, "constant", ())],
)
def test_training_learns_digits(
    tmp_path: Path, optimizer: str, rate: float, schedule: str, milestones: tuple[float, ...]
) -> None:
    """Four epochs of each kind of recipe lift a random network to more than 88 % of unseen digits."""
    recipe = TrainingRecipe(
        4, rate, optimizer=optimizer, schedule=schedule, milestones=milestones, warmup_epochs=0.5, label_smoothing=0.1
    )
    untrained = accuracy_by_hand(make_net(), digits(TEST))
    classifier = fit(tmp_path, recipe)
    trained = accuracy_by_hand(classifier.model, digits(TEST))
    assert untrained < 40
    assert trained > 88


def test_test_accuracy_equals_a_count_by_hand(tmp_path: Path) -> None:
    """Top-1 and top-5 of `trainer.test` equal plain counting over batches of unequal size."""
    classifier = Classifier(make_net(3), 10, TrainingRecipe(0, 0.1))
    results = make_trainer(tmp_path, 1).test(classifier, DataLoader(digits(TEST), batch_size=64), verbose=False)[0]
    assert results["test/acc1_percent"] == pytest.approx(accuracy_by_hand(classifier.model, digits(TEST)), abs=1e-4)
    assert results["test/acc5_percent"] == pytest.approx(accuracy_by_hand(classifier.model, digits(TEST), 5), abs=1e-4)
    images, labels = digits(TEST).tensors
    with torch.no_grad():
        loss = F.cross_entropy(classifier.model(images), labels).item()
    assert results["test/loss"] == pytest.approx(loss, rel=1e-5)


def test_few_classes_have_no_top5(tmp_path: Path) -> None:
    """With five classes or fewer only top-1 is scored."""
    data = TensorDataset(torch.randn(9, 1, 8, 8), torch.arange(9) % 3)
    classifier = Classifier(make_net(num_classes=3), 3, TrainingRecipe(1, 0.1))
    results = make_trainer(tmp_path, 1).test(classifier, DataLoader(data, batch_size=4), verbose=False)[0]
    assert set(results) == {"test/acc1_percent", "test/loss"}


def test_curves_are_logged_under_the_stage(tmp_path: Path) -> None:
    """Loss, accuracy and learning rate reach the logger under the name of the stage."""
    torch.manual_seed(0)
    classifier = Classifier(make_net(), 10, TrainingRecipe(2, 0.1, where="dense"))
    logger = CSVLogger(tmp_path, name="training")
    loaders = DataLoader(digits(TRAIN), batch_size=100, shuffle=True), DataLoader(digits(TEST), batch_size=100)
    make_trainer(tmp_path, 2, logger=logger, log_every_n_steps=1).fit(classifier, *loaders)
    header = (tmp_path / "training" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    expected = {"dense/train_loss", "dense/train_acc1_percent", "dense/val_loss", "dense/val_acc1_percent"}
    assert expected | {"dense/learning_rate"} <= set(header)


def test_bfloat16_trains_on_the_cpu(tmp_path: Path) -> None:
    """Mixed precision keeps float32 weights, computes in bfloat16 and still learns."""
    seen: set[torch.dtype] = set()
    model = make_net()
    model[4].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    classifier = fit(tmp_path, TrainingRecipe(4, 0.1), model=model, precision="bf16-mixed")
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
    model._forward_hooks if False else None
    assert accuracy_by_hand(classifier.model, digits(TEST)) > 88


def test_cosine_follows_its_closed_form() -> None:
    """Warm-up is linear to exactly 1, cosine falls from 1 by (1 + cos(pi t)) / 2 and never rises."""
    recipe = TrainingRecipe(10, 0.1, warmup_epochs=2)
    factors = [learning_rate_factor(recipe, step, 100) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:] == pytest.approx([(1 + math.cos(math.pi * done / 80)) / 2 for done in range(80)])
    assert learning_rate_factor(recipe, 100, 100) == pytest.approx(0, abs=1e-12)


def test_multistep_and_constant_follow_their_closed_forms() -> None:
    """Multistep multiplies by gamma from each milestone on; constant stays."""
    recipe = TrainingRecipe(10, 0.1, schedule="multistep", milestones=(5, 7.5), gamma=0.2)
    factors = [learning_rate_factor(recipe, step, 40) for step in range(40)]
    assert factors == pytest.approx([1.0] * 20 + [0.2] * 10 + [0.04] * 10)
    constant = TrainingRecipe(10, 0.1, schedule="constant")
    assert {learning_rate_factor(constant, step, 40) for step in range(40)} == {1.0}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_trainer_steps_the_schedule_per_optimizer_step(tmp_path: Path, accumulated: int) -> None:
    """The rates that the optimizer really used are the closed form, also with accumulated gradients."""
    used: list[float] = []

    class Recorder(Classifier):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            used.append(optimizer.param_groups[0]["lr"])

    recipe = TrainingRecipe(2, 0.1, warmup_epochs=0.5)
    loader = DataLoader(digits(slice(0, 800)), batch_size=100)
    make_trainer(tmp_path, 2, accumulate_grad_batches=accumulated).fit(Recorder(make_net(), 10, recipe), loader)
    num_steps = 16 // accumulated
    assert used == pytest.approx([0.1 * learning_rate_factor(recipe, step, num_steps) for step in range(num_steps)])


def test_label_smoothing_enters_the_training_loss_only() -> None:
    """The smoothed loss is (1 - s) * loss of the label + s * mean loss of all classes; scoring stays plain."""
    model, (images, labels) = make_net(), digits(slice(0, 50)).tensors
    classifier = Classifier(model, 10, TrainingRecipe(1, 0.1, label_smoothing=0.3))
    classifier.log = lambda *arguments, **settings: None  # type: ignore[method-assign]
    log_probabilities = F.log_softmax(model(images), dim=1)
    plain = -log_probabilities[range(50), labels].mean()
    everywhere = -log_probabilities.mean()
    smoothed = classifier._score(classifier.train_metrics, "", (images, labels), 0.3)
    assert smoothed.item() == pytest.approx((0.7 * plain + 0.3 * everywhere).item(), rel=1e-5)
    assert classifier._score(classifier.test_metrics, "", (images, labels)).item() == pytest.approx(plain.item(), rel=1e-5)
