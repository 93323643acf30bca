"""Is every value of a nest found and named, whoever registered the classes it is made of?"""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import snp
from snp.graph.batches import Batch
from snp.graph.nests import mapped_with_places, placed


class Named(OrderedDict[str, Any]):
    """As the outputs of diffusers: a mapping that PyTorch knows without its keys."""


@dataclass
class Pair:
    first: Any
    second: Any


pytree.register_pytree_node(
    Named, lambda node: (list(node.values()), list(node)), lambda v, k: Named(zip(k, v, strict=True))
)
pytree.register_pytree_node(Pair, lambda node: ([node.first, node.second], None), lambda values, _: Pair(*values))
Point = namedtuple("Point", "x y")
KNOWN = [3, (1, [2, {"b": 3, "a": (4,)}]), Point(1, {"k": 2}), OrderedDict(z=1, y=[2]), {}, None]


@pytest.mark.parametrize("nest", KNOWN, ids=str)
def test_places_are_those_of_pytorch_where_it_names_them(nest: Any) -> None:
    wanted, _ = pytree.tree_flatten_with_path(nest)
    assert placed(nest) == [(pytree.keystr(path), value) for path, value in wanted]
    assert mapped_with_places(lambda place, value: (place, value), nest) == pytree.tree_map_with_path(
        lambda path, value: (pytree.keystr(path), value), nest
    )


def test_classes_without_keys_are_named_by_entries_or_numbers() -> None:
    nest = (Named(sample=1, more=Pair(2, [3])), 4)
    found = [("[0]['sample']", 1), ("[0]['more'][0]", 2), ("[0]['more'][1][0]", 3), ("[1]", 4)]
    assert placed(nest) == found
    assert [value for _, value in placed(nest)] == pytree.tree_leaves(nest)
    both = mapped_with_places(lambda place, *values: (place, *values), nest, (Named(sample=5, more=Pair(6, [7])), 8))
    assert placed(both[0]["more"].second[0]) == [("[0]", "[0]['more'][1][0]"), ("[1]", 3), ("[2]", 7)]


def test_inputs_of_such_classes_are_picked_and_joined() -> None:
    batch = Batch((), {"pair": Pair(torch.arange(6.0), Named(x=torch.arange(12.0).reshape(6, 2)))})
    joined = Batch.joined([batch.first(2), *batch.picked(torch.arange(2, 6)).split(3)])
    assert joined.size == 6
    assert all(torch.equal(one, other) for one, other in zip(joined.leaves, batch.leaves, strict=True))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Named:
        return Named(sample=self.layers(x), mean=Pair(self.layers(x).mean(dim=1), 3))


def test_a_network_with_such_outputs_is_pruned() -> None:
    torch.manual_seed(0)
    result = snp.prune(Decoder(), [torch.randn(64, 10) for _ in range(4)], target_units=0.5, progress=False)
    assert result.model.layers[0].out_features == 16


def test_a_network_of_diffusers_is_pruned_with_its_usual_output() -> None:
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    batch = {"sample": torch.randn(16, 3, 8, 8), "timestep": torch.randint(0, 1000, (16,))}
    result = snp.prune(model, [batch], target_macs=0.8, preset="quick", progress=False)
    wanted, found = model.eval()(**batch).sample, result.model.eval()(**batch).sample
    assert found.shape == wanted.shape
    assert (found - wanted).square().mean() < wanted.var()
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())
