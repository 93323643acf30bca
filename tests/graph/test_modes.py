"""Do networks come back in the modes that they were given in, by a ``train`` of their own, too?"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import snp
from snp.graph.modes import as_before, copy_in_modes, modes_of
from tests.audit import randomise
from tests.networks import images


class Inside(nn.Module):
    """A feature extractor in front of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = extractor(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)["features"].mean((2, 3)))


def extractor() -> Any:
    """torchvision's, which runs another graph in training, and whose copies are in training mode."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 6, 3), nn.Conv2d(6, 2, 1)
    return create_feature_extractor(randomise(nn.Sequential(*layers)), {"3": "features"})


NETWORKS = {"itself": extractor, "inside": Inside}


@pytest.mark.parametrize("is_training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", NETWORKS)
def test_feature_extractors_are_pruned_and_come_back(name: str, is_training: bool, tmp_path: Path) -> None:
    """In the modes and the graphs of the network given, which stays in its own; from a folder in evaluation mode."""
    model, inputs = NETWORKS[name]().train(is_training), images(32)
    inner = model if name == "itself" else model.body
    inner.get_submodule("1").train(not is_training)
    modes = modes_of(model)
    result = snp.prune(model, [inputs], target_units=0.5, preset="quick", progress=False)
    assert result.check < 1e-9
    for network in (model, result.model):
        assert modes_of(network) == modes
        graphs: Any = network if name == "itself" else network.body
        assert graphs.graph is (graphs.train_graph if is_training else graphs.eval_graph)
    snp.save(result, tmp_path)
    back, small = snp.load(tmp_path, NETWORKS[name]()), result.model.eval()
    assert not any(modes_of(back).values())
    with torch.no_grad():
        wanted, found = (network(inputs) for network in (small, back))
    wanted, found = (value["features"] if isinstance(value, dict) else value for value in (wanted, found))
    assert torch.equal(found, wanted)


def test_modes_that_train_does_not_set_come_back() -> None:
    """A part that never trains, and one that was put into training mode by hand."""

    class Still(nn.Linear):
        def train(self, mode: bool = True) -> "Still":
            return super().train(False)

    model = nn.Sequential(Still(2, 2), nn.Sequential(Still(2, 2)), nn.Dropout())
    model[1][0].training = True
    modes = {"": True, "0": True, "1": True, "1.0": True, "2": True}
    assert modes_of(model) == modes
    with as_before(model):
        assert not any(modes_of(model.eval()).values())
    assert modes_of(model) == modes_of(copy_in_modes(model)) == modes
