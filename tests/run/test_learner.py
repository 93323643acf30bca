"""Does training follow its recipe, and is every test sample scored exactly once?"""

import json
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

from snp.run.training.learner import Classifier, TrainingRecipe, parameter_groups
from snp.run.training.recipe import learning_rate_factor


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
            "enable_model_summary": False, "default_root_dir": folder, **settings,
        }
    )  # fmt: skip


def fit(folder: Path, recipe: TrainingRecipe, *, model: nn.Module | None = None, **settings: object) -> Classifier:
    """Train on the digits; return the classifier."""
    torch.manual_seed(0)
    classifier = Classifier(model or make_net(), 10, recipe)
    loaders = DataLoader(digits(TRAIN), batch_size=100, shuffle=True), DataLoader(digits(TEST), batch_size=397)
    make_trainer(folder, recipe.epochs, **settings).fit(classifier, *loaders)
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
    classifier = Classifier(make_net(3), 10, TrainingRecipe(0, 0.1, label_smoothing=0.5))
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
    logger = CSVLogger(tmp_path, name="training")
    fit(tmp_path, TrainingRecipe(2, 0.1, where="dense"), logger=logger, log_every_n_steps=1)
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
    assert accuracy_by_hand(classifier.model, digits(TEST)) > 88


def test_network_in_evaluation_mode_is_trained_in_training_mode(tmp_path: Path) -> None:
    """A network that was scored before trains like a fresh one, BatchNorm statistics included."""
    fresh, scored = make_net(), make_net().eval()
    for model in (fresh, scored):
        fit(tmp_path, TrainingRecipe(1, 0.1), model=model)
    assert fresh[1].num_batches_tracked == 14
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, scored.state_dict()[name]), name


def test_cosine_follows_its_closed_form() -> None:
    """Warm-up is linear to exactly 1, cosine falls from 1 by (1 + cos(pi t)) / 2 and never rises."""
    recipe = TrainingRecipe(10, 0.1, warmup_epochs=2)
    factors = [learning_rate_factor(recipe, step, 100) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:] == pytest.approx([(1 + math.cos(math.pi * done / 80)) / 2 for done in range(80)])
    assert learning_rate_factor(recipe, 100, 100) == pytest.approx(0, abs=1e-12)


def test_other_schedules_follow_their_closed_forms() -> None:
    """Multistep multiplies by gamma from each milestone on, linear falls to zero, constant stays."""
    recipe = TrainingRecipe(10, 0.1, schedule="multistep", milestones=(5, 7.5), gamma=0.2)
    factors = [learning_rate_factor(recipe, step, 40) for step in range(40)]
    assert factors == pytest.approx([1.0] * 20 + [0.2] * 10 + [0.04] * 10)
    linear = TrainingRecipe(10, 0.1, schedule="linear", warmup_epochs=2.5)
    factors = [learning_rate_factor(linear, step, 40) for step in range(41)]
    assert factors == pytest.approx([(step + 1) / 10 for step in range(10)] + [1 - done / 30 for done in range(31)])
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
    trainer = make_trainer(tmp_path, 2, accumulate_grad_batches=accumulated, limit_val_batches=1)
    trainer.fit(Recorder(make_net(), 10, recipe), loader, loader)
    num_steps = 16 // accumulated
    assert used == pytest.approx([0.1 * learning_rate_factor(recipe, step, num_steps) for step in range(num_steps)])


def test_label_smoothing_enters_the_training_loss(tmp_path: Path) -> None:
    """The training loss is (1 - s) times the loss of the label plus s times the mean loss of all classes."""
    model, data = make_net(), digits(slice(0, 50))
    images, labels = data.tensors
    with torch.no_grad():
        log_probabilities = F.log_softmax(make_net()(images), dim=1)
    expected = -(0.7 * log_probabilities[range(50), labels].mean() + 0.3 * log_probabilities.mean())
    loader = DataLoader(data, batch_size=50)
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(Classifier(model, 10, TrainingRecipe(1, 0.1, label_smoothing=0.3)), loader, loader)
    assert trainer.callback_metrics["finetune/train_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_norms_and_biases_do_not_decay() -> None:
    """Only parameters with two or more dimensions decay unless `decay_norms` asks for all; frozen ones stay out."""
    model = make_net()
    model[7].weight.requires_grad_(False)
    decayed, plain = parameter_groups(model, TrainingRecipe(1, 0.1, weight_decay=0.3))
    assert decayed["weight_decay"] == 0.3
    assert {id(parameter) for parameter in decayed["params"]} == {id(model[0].weight), id(model[4].weight)}
    assert plain["weight_decay"] == 0
    shapes = [tuple(parameter.shape) for parameter in plain["params"]]
    assert shapes == [(16,), (16,), (32,), (10,)]
    (together,) = parameter_groups(model, TrainingRecipe(1, 0.1, decay_norms=True))
    assert len(together["params"]) == 6


@pytest.mark.parametrize(
    ("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)  # fmt: skip
def test_recipe_reaches_the_optimizer(tmp_path: Path, optimizer: str, kind: type) -> None:
    """Kind, momentum, Nesterov and weight decay of the recipe are those of the optimizer that ran."""
    loader = DataLoader(digits(slice(0, 50)), batch_size=50)
    trainer = make_trainer(tmp_path, 1)
    recipe = TrainingRecipe(1, 0.01, optimizer=optimizer, momentum=0.8, weight_decay=0.02)
    trainer.fit(Classifier(make_net(), 10, recipe), loader, loader)
    (used,) = trainer.optimizers
    assert type(used) is kind
    assert [group["weight_decay"] for group in used.param_groups] == [0.02, 0.0]
    if optimizer == "sgd":
        assert {(group["momentum"], group["nesterov"]) for group in used.param_groups} == {(0.8, True)}


@pytest.mark.parametrize(
    ("field", "value", "phrase"),
    [
        ("epochs", -1, "of at least 0, found -1"),
        ("epochs", 1.5, "whole number"),
        ("epochs", "ten", "found 'ten'"),
        ("learning_rate", 0, "above 0, found 0"),
        ("learning_rate", math.nan, "found nan"),
        ("learning_rate", True, "found True"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("weight_decay", -0.1, "of at least 0"),
        ("label_smoothing", 1, r"in \[0, 1\)"),
        ("warmup_epochs", 11, "at most the 10 epochs"),
        ("gamma", 0, r"in \(0, 1\]"),
        ("schedule", "step", "one of cosine, linear, multistep, constant, found 'step'"),
        ("by_cut", True, "nothing is cut"),
        ("average", 1.0, r"in \[0, 1\)"),
        ("optimizer", "adam", "one of sgd, adamw"),
        ("nesterov", "yes", "true or false"),
        ("milestones", (3,), "empty for the cosine schedule"),
        ("milestones", "3", r"a list such as \[2, 4\]"),
    ],
)
def test_mistakes_in_a_recipe_are_named(field: str, value: object, phrase: str) -> None:
    """Each field out of its range is refused with its name, the rule and what was found."""
    with pytest.raises(ValueError, match=rf"^dense\.{field} must be .*{phrase}"):
        TrainingRecipe(**{"epochs": 10, "learning_rate": 0.1, "where": "dense", field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("milestones", [(), (5, 3), (3, 3), (0, 3), (3, 10)])
def test_milestones_must_increase_inside_the_run(milestones: tuple[float, ...]) -> None:
    """Multistep needs increasing milestones strictly between the first and the last epoch."""
    with pytest.raises(ValueError, match=r"finetune\.milestones must be increasing epochs between 0 and 10"):
        TrainingRecipe(10, 0.1, schedule="multistep", milestones=milestones)


def test_recipe_takes_a_list_and_stays_hashable() -> None:
    """Milestones may arrive as a list; the recipe keeps a tuple, so that it can be a key."""
    recipe = TrainingRecipe(10, 0.1, schedule="multistep", milestones=[2, 4])  # type: ignore[arg-type]
    assert recipe.milestones == (2, 4)
    assert hash(recipe) == hash(TrainingRecipe(10, 0.1, schedule="multistep", milestones=(2, 4)))


def test_divergence_stops_with_advice(tmp_path: Path) -> None:
    """An absurd learning rate ends in one sentence that names the setting, not in a network of NaNs."""
    with pytest.raises(
        ValueError, match=r"loss is not finite in epoch 1 of \d+: try a finetune\.learning_rate below 1e\+30"
    ):
        fit(tmp_path, TrainingRecipe(1, 1e30))


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    """A network without trainable parameters is refused with a sentence."""
    with pytest.raises(ValueError, match=r"The finetune stage has nothing to train: it found no trainable parameters"):
        fit(tmp_path, TrainingRecipe(1, 0.1), model=make_net().requires_grad_(False))
    with pytest.raises(ValueError, match="at least 2 classes"):
        Classifier(make_net(), 1, TrainingRecipe(1, 0.1))


DDP_SCRIPT = """
import json, sys, torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from snp.data.sampling import ExactlyOnceSampler
from snp.run.training.learner import Classifier, TrainingRecipe

torch.manual_seed(0)
labels = torch.arange(103) % 10
# The identity network: the labels of samples 0, 1 and 2 are hidden, every other sample is right.
images = nn.functional.one_hot(torch.where(torch.arange(103) < 3, labels + 1, labels), 11)[:, :10].float()
data = TensorDataset(images, labels)

def loader():
    sampler = ExactlyOnceSampler(data) if torch.distributed.is_initialized() else None
    return DataLoader(data, batch_size=8, sampler=sampler)

class Scored(Classifier):
    def test_dataloader(self):
        return loader()

trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
                  enable_model_summary=False)
result = trainer.test(Scored(nn.Identity(), 10, TrainingRecipe(1, 0.1)), verbose=False)[0]
if trainer.is_global_zero:
    print("RESULT", json.dumps([trainer.world_size, result]))
"""


@pytest.mark.slow
def test_accuracy_of_two_processes_is_exact(tmp_path: Path) -> None:
    """103 samples over two processes, three of them wrong: exactly 100/103, as one process would find."""
    script = tmp_path / "score.py"
    script.write_text(textwrap.dedent(DDP_SCRIPT))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    world_size, result = json.loads(line.removeprefix("RESULT"))
    assert world_size == 2
    assert result["test/acc1_percent"] == pytest.approx(100 * 100 / 103, abs=1e-4)


def test_a_network_without_an_output_for_every_class_is_named(tmp_path: Path) -> None:
    """Not by an error of torch about an index, whichever labels a batch has."""
    recipe = TrainingRecipe(1, 0.1)
    with pytest.raises(ValueError, match=r"^model: the network gives out 9 numbers for a sample, .* num_classes=10; "):
        fit(tmp_path, recipe, model=make_net(num_classes=9))
