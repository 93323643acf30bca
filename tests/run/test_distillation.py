"""Does a network that is trained by another one learn that one's outputs, and nothing else?"""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from snp.data.windows import IGNORED
from snp.measure.distillation import distillation_loss
from snp.run.training.learner import Classifier, LanguageModel, TrainingRecipe


def some_logits(seed: int, rows: int = 5) -> Tensor:
    return 3 * torch.randn(rows, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_is_the_difference_of_softened_predictions(temperature: float) -> None:
    """T (softmax(z / T) - softmax(v / T)) / N for logits z and v, as in Hinton et al., equation 2."""
    logits, wanted = some_logits(0).requires_grad_(), some_logits(1)
    distillation_loss(logits, wanted, temperature).backward()
    by_hand = temperature * ((logits / temperature).softmax(1) - (wanted / temperature).softmax(1)) / len(logits)
    torch.testing.assert_close(logits.grad, by_hand.detach())


def test_loss_is_a_divergence() -> None:
    """Zero for predictions that are the same, whatever is added to all logits; above zero for others."""
    logits = some_logits(0)
    assert float(distillation_loss(logits, logits + 5, 2.0)) == pytest.approx(0, abs=1e-12)
    assert float(distillation_loss(logits, some_logits(1), 2.0)) > 0.1
    assert float(distillation_loss(logits[:0], logits[:0], 2.0)) == 0


def quiet_trainer(folder: Path, epochs: int = 1) -> Trainer:
    """A trainer on one CPU that writes nothing."""
    return Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


def trained(folder: Path, labels: Tensor, recipe: TrainingRecipe, teacher: nn.Module) -> nn.Module:
    """A small network after an epoch over 40 inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7))
    inputs = torch.randn(40, 6)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=10)
    quiet_trainer(folder, recipe.epochs).fit(Classifier(model, 7, recipe, teacher), loader, loader)
    return model.eval()


def teacher_with_statistics() -> nn.Module:
    """A network whose BatchNorm would move if it were in training mode."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7))


def test_labels_do_not_matter_to_a_network_that_only_distils(tmp_path: Path) -> None:
    """With distil=1 other labels lead to the same weights, to the last bit; with less they do not."""
    first, second = torch.arange(40) % 7, torch.arange(40) % 5
    teacher = teacher_with_statistics()
    for share, is_same in ((1.0, True), (0.5, False)):
        recipe = TrainingRecipe(1, 0.1, distil=share)
        weights = [trained(tmp_path, labels, recipe, teacher)[0].weight for labels in (first, second)]
        assert torch.equal(*weights) == is_same


def test_student_comes_closer_and_teacher_stays(tmp_path: Path) -> None:
    """Ten epochs halve the divergence at least; the teacher's weights, statistics and mode are what they were."""
    teacher = teacher_with_statistics()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    torch.manual_seed(0)
    inputs = torch.randn(200, 6)
    found = []
    for epochs in (0, 10):
        recipe = TrainingRecipe(epochs, 0.1, distil=1.0, temperature=2.0)
        student = trained(tmp_path, torch.zeros(40, dtype=torch.int64), recipe, teacher)
        with torch.no_grad():
            found.append(float(distillation_loss(student(inputs), teacher(inputs), 1.0)))
    assert found[1] < found[0] / 2
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_padding_of_text_is_not_distilled(tmp_path: Path) -> None:
    """What the teacher says where labels are to be ignored changes nothing."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (4, 6))
    labels = tokens.roll(-1, 1)
    labels[:, 3:] = IGNORED
    teacher = nn.Embedding(7, 7)

    class Otherwise(nn.Module):
        """The teacher, changed at the positions from some one on."""

        def __init__(self, start: int) -> None:
            super().__init__()
            self.start = start

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = teacher(inputs)
            return torch.cat([logits[:, : self.start], logits[:, self.start :].flip(-1)], dim=1)

    def learned(other: nn.Module) -> Tensor:
        torch.manual_seed(1)
        student = nn.Embedding(7, 7)
        loader = DataLoader(TensorDataset(tokens, labels), batch_size=2)
        recipe = TrainingRecipe(1, 0.1, distil=1.0)
        quiet_trainer(tmp_path).fit(LanguageModel(student, recipe, other), loader, loader)
        return student.weight.detach()

    assert torch.equal(learned(teacher), learned(Otherwise(3)))
    assert not torch.equal(learned(teacher), learned(Otherwise(2)))


def test_dense_training_has_no_teacher() -> None:
    """A dense recipe that distils is refused, and so is a share above one."""
    with pytest.raises(ValueError, match=r"dense\.distil must be 0"):
        TrainingRecipe(1, 0.1, distil=0.5, where="dense")
    with pytest.raises(ValueError, match=r"finetune\.distil must be a number in \[0, 1\]"):
        TrainingRecipe(1, 0.1, distil=1.5)
    with pytest.raises(ValueError, match=r"finetune\.temperature must be a number above 0"):
        TrainingRecipe(1, 0.1, temperature=0.0)
