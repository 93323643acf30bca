"""Do the parts of a fine-tuning recipe do what they say: averaged weights, and a rate by the size of the cut?"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import snp
from snp.data.digits import Digits
from snp.run.folder import RunFolder
from snp.run.trainer import JobTrainer
from snp.run.training.cut_size import cut_size
from snp.run.training.recipe import TrainingRecipe
from tests.command_line import Ended, run_here
from tests.networks import cnn, images

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data


def fitted(folder: Path, recipe: TrainingRecipe, **settings: Any) -> tuple[nn.Module, list[Tensor]]:
    """A small network after a fit, and its first weight after every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    data = Digits(batch_size=256)
    data.configure(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    steps: list[Tensor] = []

    def trainer(**keywords: Any) -> Trainer:
        fixed = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0}
        return Trainer(**fixed | settings | keywords)

    hook = register_optimizer_step_post_hook(lambda *_: steps.append(model[1].weight.detach().clone()))  # type: ignore[arg-type]
    try:
        JobTrainer(data, trainer, [], RunFolder(folder)).fit(model, recipe)
    finally:
        hook.remove()
    return model, steps


def test_averaged_weights_are_the_running_mean_of_the_steps(tmp_path: Path) -> None:
    """M becomes decay m + (1 - decay) w after every step, from the first one's w on; without it the last w stays."""
    model, steps = fitted(tmp_path / "averaged", TrainingRecipe(2, 0.1, average=0.7))
    mean = steps[0]
    for step in steps[1:]:
        mean = 0.7 * mean + 0.3 * step
    torch.testing.assert_close(model[1].weight.detach(), mean)
    plain, others = fitted(tmp_path / "plain", TrainingRecipe(2, 0.1))
    assert len(steps) == len(others) > 8
    assert all(map(torch.equal, steps, others))  # averaging does not change how it trains
    assert torch.equal(plain[1].weight, others[-1])


def test_an_epoch_that_is_not_validated_shows_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every second epoch there are some, and the line between repeats none."""
    fitted(tmp_path, TrainingRecipe(3, 0.1), check_val_every_n_epoch=2)
    lines = [line.partition(" of 3, ")[2] for line in capsys.readouterr().out.splitlines() if " of 3, " in line]
    assert len(lines) == 3
    assert [line.startswith("validation: top-1") for line in lines] == [False, True, False]


def test_size_of_a_cut_is_that_of_the_weights_that_went() -> None:
    """By hand on one hidden layer: rows of the first, columns of the second matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    with torch.no_grad():
        model[0].weight[:5] *= 0.1
        model[2].weight[:, :5] *= 0.1
        model[0].bias[:5] *= 0.1
    options: dict[str, Any] = {"planner": "magnitude", "target_units": 0.5, "round_to": 1, "reconstruct": False}
    plan = snp.prune(model, [torch.randn(32, 6)], **options).plan
    assert plan.groups[0].kept.tolist() == [5, 6, 7, 8, 9]
    gone = [model[0].weight[:5], model[0].bias[:5], model[2].weight[:, :5]]
    energy, whole = (
        sum(float(t.detach().double().square().sum()) for t in part) for part in (gone, model.parameters())
    )
    share = 5 * (6 + 1 + 3) / (10 * (6 + 1 + 3) + 3)
    assert cut_size(model, plan) == pytest.approx(math.sqrt(energy / whole / share))
    assert cut_size(model, plan) < 0.2


def test_size_of_a_cut_is_one_where_nothing_or_the_largest_went() -> None:
    """It never raises the rate."""
    model = cnn().eval()
    whole = snp.prune(model, [images(32)], target_units=1.0, cut="uniform", ordering="variance").plan
    assert cut_size(model, whole) == 1.0
    half = snp.prune(model, [images(32)], target_units=0.5, ordering="random", round_to=1).plan
    assert 0 < cut_size(model, half) <= 1.0


@pytest.mark.rehearsal
def test_rate_of_a_run_goes_by_its_cut(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """What is logged and recorded is the rate times the size of the cut."""
    options = ("finetune.by_cut=true", "finetune.learning_rate=0.1", "finetune.schedule=constant", "logger=csv")
    ended = run_here(*options, f"cache_dir={finished_run[0]}", "prune.preset=quick", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 < found["finetune/cut_size"] < 1
    assert found["finetune/learning_rate"] == pytest.approx(0.1 * found["finetune/cut_size"])
