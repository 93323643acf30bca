"""Are networks of graphs told what cannot be cut, and how graphs become samples?"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.edges import edges_told

NODES, EDGES = 20, 40


class Convolved(nn.Module):
    """Every node and the sum of its neighbours, twice: nodes [N, 12], edges -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 5)

    def beside(self, x: Tensor, edges: Tensor) -> Tensor:
        return x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.second(self.beside(self.first(self.beside(x, edges)).relu(), edges)).relu()
        return self.head(x)


class Dense(Convolved):
    """The same with a matrix [N, N] of edges."""

    def beside(self, x: Tensor, edges: Tensor) -> Tensor:
        return x + edges @ x


class Pooled(Convolved):
    """One output for each of four graphs: [4, 5]."""

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor | None = None) -> Tensor:
        assert graph is not None
        return torch.zeros(4, 5).index_add(0, graph, super().forward(x, edges))


class Graphs(nn.Module):
    """The module that the docs show: nodes [B, N, 12], edges [B, 2, E] -> [B, N, 5]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        graphs, nodes = x.shape[:2]
        first = nodes * torch.arange(graphs, device=x.device)[:, None]
        joined = torch.stack([edges[:, 0] + first, edges[:, 1] + first]).flatten(1)
        return self.network(x.flatten(0, 1), joined).unflatten(0, (graphs, nodes))


def pairs(*shape: int) -> Tensor:
    return torch.randint(0, NODES, shape, generator=torch.Generator().manual_seed(0))


NODE_VALUES = torch.randn(NODES, 12, generator=torch.Generator().manual_seed(1))
ALONE: dict[str, tuple[type[Convolved], dict[str, Tensor]]] = {
    "pairs": (Convolved, {"x": NODE_VALUES, "edges": pairs(2, EDGES)}),
    "matrix": (Dense, {"x": NODE_VALUES, "edges": torch.rand(NODES, NODES)}),
    "pooled": (Pooled, {"x": NODE_VALUES, "edges": pairs(2, EDGES), "graph": torch.arange(NODES) // 5}),
}


@pytest.mark.parametrize("name", ALONE)
def test_nodes_are_no_samples(name: str) -> None:
    """What was found, and what to give instead of a stack trace of the network's own code."""
    kind, batch = ALONE[name]
    with pytest.raises(ValueError, match=r"\['edges'\] says which rows of \[1\]\['x'\] belong together.*\[B, 2, E\]"):
        snp.prune(kind().eval(), [batch], target_units=0.5)


def test_a_module_around_it_makes_graphs_samples() -> None:
    torch.manual_seed(0)
    model = Graphs(Convolved()).eval()
    batches = [{"x": torch.randn(16, NODES, 12), "edges": torch.randint(0, NODES, (16, 2, EDGES))} for _ in range(4)]
    result = snp.prune(model, batches, target_units=0.5, cut="uniform")
    assert result.plan.settings["samples"] == 64
    assert result.plan.macs["dense"] == NODES * (12 * 24 + 24 * 24 + 24 * 5)
    assert result.model.network.second.out_features == 12
    one = {name: value[3] for name, value in batches[0].items()}
    with torch.no_grad():
        torch.testing.assert_close(model(**batches[0])[3], model.network(**one))


def test_other_errors_stay_what_they_are() -> None:
    """A budget out of reach has nothing to do with edges."""
    with pytest.raises(ValueError, match=r"^prune.target_macs=0.1 cannot be reached"):
        snp.prune(Convolved().eval(), [ALONE["pairs"][1]], target_macs=0.1)


@pytest.mark.parametrize(
    ("inputs", "has_edges"),
    [
        ({"x": NODE_VALUES, "edges": pairs(EDGES, 2)}, True),
        ({"x": torch.arange(NODES), "edges": pairs(2, EDGES)}, True),
        ({"x": NODE_VALUES, "edges": pairs(2, EDGES) + NODES}, False),
        ({"x": NODE_VALUES, "edges": pairs(3, EDGES)}, False),
        ({"x": NODE_VALUES, "edges": torch.rand(2, EDGES)}, False),
        ({"x": NODE_VALUES}, False),
    ],
)
def test_edges_are_recognised(inputs: dict[str, Any], has_edges: bool) -> None:
    assert bool(edges_told(Batch.of(inputs))) == has_edges


def test_tensors_of_different_lengths_are_told() -> None:
    """Without edges among them the sentence says what the samples have to be."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            joined = torch.cat([one, other])
            return self.head(self.second(self.first(joined - joined.mean(0)).relu()).relu())

    batch = {"one": torch.randn(6, 4), "other": torch.randn(5, 4)}
    with pytest.raises(ValueError, match=r"different numbers of samples.*give tensors that have the samples along"):
        snp.prune(Joined().eval(), [batch], target_units=0.5)
