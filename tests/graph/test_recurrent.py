"""Are recurrent layers read by the weights of their first layer, counted, and left whole themselves?"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.plan.costs import CostModel
from tests.graph.test_coupling_shapes import cut_anyhow
from tests.graph.test_graph import Net, owned

SERIES = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))


def between(layer: nn.Module, reads: int) -> Net:
    """Two linear layers in front of a recurrent one, two behind."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = F.gelu(m.second(F.gelu(m.first(x))))
        return m.head(F.gelu(m.hidden(m.layer(x if m.layer.batch_first else x.movedim(1, 0))[0])).mean((0, 1)))

    return Net(
        forward, first=nn.Linear(6, 8), second=nn.Linear(8, 10), layer=layer, hidden=nn.Linear(reads, 9),
        head=nn.Linear(9, 4),
    )  # fmt: skip


LAYERS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {"batch_first": True}),
    "GRU, two layers and directions": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "LSTM, both directions": (nn.LSTM, {"bidirectional": True, "bias": False}),
    "LSTM with projection": (nn.LSTM, {"batch_first": True, "proj_size": 3}),
    "RNN": (nn.RNN, {"nonlinearity": "relu"}),
}


def built(name: str) -> Net:
    kind, options = LAYERS[name]
    width = options.get("proj_size", 5) * (2 if options.get("bidirectional") else 1)
    return between(kind(10, 5, **options), width)


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # it is slower, says PyTorch
@pytest.mark.parametrize("name", LAYERS)
def test_neighbours_are_cut_and_the_layer_is_counted(name: str) -> None:
    """What it reads can go in every direction; its own units stay; costs are those that are counted."""
    model = built(name)
    graph = cut_anyhow(model, SERIES)
    assert {group.name: group.num_units for group in graph.groups} == {"first": 8, "second": 10, "hidden": 9}
    directions = ("", "_reverse") if model.layer.bidirectional else ("",)
    assert owned(graph.groups[1])["consumers"] == {(f"layer.weight_ih_l0{end}", 1, 1) for end in directions}
    costs = CostModel(model, graph, graph.groups)
    assert costs.macs(costs.dense) == macs_of_batch(model, Batch.of(SERIES))


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("name", ["LSTM", "GRU, two layers and directions"])
def test_copies_are_folded_into_the_input_weights(name: str, calibration: str, tmp_path: Path) -> None:
    """With every unit there twice half of them go, nothing is lost, and the layer knows what it reads."""
    model = built(name).eval()
    with torch.no_grad():
        for layer in (model.first, model.second, model.hidden):
            half = layer.out_features // 2
            layer.weight[half : 2 * half], layer.bias[half : 2 * half] = layer.weight[:half], layer.bias[:half]
    inputs = torch.randn(64, 7, 6, generator=torch.Generator().manual_seed(1))
    result = snp.prune(
        model, [inputs], target_units=0.5, cut="uniform", ordering="pivoted", ridge=1e-9, calibration=calibration,
        ignore=("hidden",),
    )  # fmt: skip
    assert [len(decision.kept) for decision in result.plan.groups] == [4, 5]
    assert result.model.layer.input_size == 5
    with torch.no_grad():
        wanted, found = model(inputs), result.model(inputs)
    assert float((wanted - found).abs().max() / wanted.abs().max()) < 1e-3
    snp.save(result, tmp_path)
    with torch.no_grad():
        assert torch.equal(snp.load(tmp_path, built(name))(inputs), found)


def test_default_settings() -> None:
    """Sensitivity and trials know recurrent layers; the budget is that of the network."""
    model = built("GRU, two layers and directions").eval()
    inputs = torch.randn(64, 7, 6, generator=torch.Generator().manual_seed(1))
    result = snp.prune(model, [inputs], target_macs=0.8)
    share = macs_of_batch(result.model.eval(), Batch.of(inputs)) / macs_of_batch(model, Batch.of(inputs))
    assert 0.79 <= share <= 0.8


def test_cells_in_a_loop() -> None:
    """One step at a time, as decoders write it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x, state = F.gelu(m.first(x)), torch.zeros(x.shape[0], 5)
        for step in range(3):
            state = m.cell(x[:, step], state)
        return m.head(state)

    model = Net(forward, first=nn.Linear(6, 8), cell=nn.GRUCell(8, 5), head=nn.Linear(5, 4))
    graph = cut_anyhow(model, SERIES)
    assert {group.name: group.num_units for group in graph.groups} == {"first": 8}
    costs = CostModel(model, graph, graph.groups)
    assert costs.macs(costs.dense) == macs_of_batch(model, Batch.of(SERIES))
    result = snp.prune(model, [SERIES.repeat(16, 1, 1)], target_units=0.5)
    assert (len(result.plan.groups[0].kept), result.model.cell.input_size) == (4, 4)
