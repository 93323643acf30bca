"""Are values that are computed again the same, and are those of one block of one batch all that is in memory?"""

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from snp.fit.recomputed import RecomputedNetworks
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.measure.checkpointed import checkpointed
from snp.measure.readers import Reader
from snp.measure.sensitivity import measure_sensitivity
from snp.models import huggingface
from tests.networks import Block


class Deep(nn.Module):
    """Transformer blocks: [N, 7, 16] -> [N, 5]."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(*[Block() for _ in range(depth)]), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean(1))


class Alive(TorchDispatchMode):
    """Bytes of what was computed inside the `with` block and is still there: now, and at most."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(found):
            if isinstance(tensor, Tensor) and type(tensor) is Tensor:
                self._note(tensor.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._known:
            return
        self._known.add(place)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def batches_of(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [Batch((torch.randn(32, 7, 16, generator=generator),)) for _ in range(count)]


def blocks_of(model: Deep) -> list[str]:
    return [f"blocks.{index}" for index in range(len(model.blocks))]


def change_first(networks: TwoNetworks, node: fx.Node) -> None:
    """Both networks differ from the first block on."""
    if "blocks.0.up.weight" not in networks.changed:
        networks.change("blocks.0.up.weight", networks.tensors["blocks.0.up.weight"] * 0.5)


def run(model: Deep, num_batches: int, *, again: bool) -> tuple[RecomputedNetworks | TwoNetworks, int]:
    """Networks that ran, and the bytes of values that were there at most."""
    batches = batches_of(num_batches)
    if again:
        networks: TwoNetworks = RecomputedNetworks(model, batches, change_first, blocks=blocks_of(model))
    else:
        networks = TwoNetworks(model, batches, change_first)
    with Alive(model) as alive:
        networks.run()
    return networks, alive.most


def test_memory_is_that_of_hidden_states_and_one_block_of_one_batch() -> None:
    """However deep the network is, and however many batches there are."""
    torch.manual_seed(0)
    shallow, deep = Deep(2).eval(), Deep(6).eval()
    networks, few = run(deep, 4, again=True)
    assert isinstance(networks, RecomputedNetworks)
    hidden = 32 * 7 * 16 * 4
    assert networks.bytes_per_batch == 2 * 2 * hidden  # of what goes in, and what comes out, of both networks
    _, many = run(deep, 12, again=True)
    assert many - few <= 8 * networks.bytes_per_batch
    assert abs(run(shallow, 4, again=True)[1] - few) <= hidden
    assert many < run(deep, 12, again=False)[1] / 2


def test_values_are_those_of_networks_that_keep_them() -> None:
    """To the bit, at the outputs of both networks; what is drawn at random is drawn once."""

    class Noisy(Deep):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(F.dropout(x, 0.5, training=True))
            return self.head(x.mean(1))

    torch.manual_seed(0)
    for model in (Deep(3).eval(), Noisy(3).eval()):
        found = []
        for again in (False, True):
            torch.manual_seed(1)
            networks, _ = run(model, 3, again=again)
            output = next(node for node in networks.graph.nodes if node.op == "output").args[0][0]
            found.append([*networks.dense[output], *networks.current[output], *networks.dense[output]])
        # Networks that keep values draw batch by batch of one node; so do those that compute again.
        assert all(map(torch.equal, *found))


def test_products_of_flattened_tokens() -> None:
    """GPT-2: nodes that were put together from several know no module, and belong where they stand."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
    model = huggingface.build(config={"model_type": "gpt2", "bos_token_id": 0, "eos_token_id": 0, **sizes}).eval()
    batches = [Batch((tokens,)).beside(model) for tokens in torch.randint(32, (6, 12)).split(2)]
    found = []
    for blocks in ([], ["transformer.h.0", "transformer.h.1"]):

        def change(networks: TwoNetworks, node: fx.Node) -> None:
            name = "transformer.h.0.mlp.c_fc.weight"
            if name not in networks.changed:
                networks.change(name, networks.tensors[name] * 0.5)

        kind = partial(RecomputedNetworks, blocks=blocks) if blocks else TwoNetworks
        networks = kind(model, batches, change)
        networks.run()
        if isinstance(networks, RecomputedNetworks):
            assert networks.bytes_per_batch == 2 * 2 * (2 * 12 * 16 * 4)
        output = next(node for node in networks.graph.nodes if node.op == "output").args[0][0]
        found.append([*networks.dense[output], *networks.current[output]])
    assert all(map(torch.equal, *found))


def test_a_batch_may_be_as_large_as_one_block_of_it_fits() -> None:
    """Twice the memory, twice the samples; never none."""
    model = Deep(2).eval()
    networks = RecomputedNetworks(model, batches_of(4), change_first, blocks=blocks_of(model))
    size = networks.fitting_size(2**20)
    assert size > 10
    assert abs(networks.fitting_size(2**21) - 2 * size) <= 1
    assert networks.fitting_size(1) == 1
    assert networks.limit(networks.bytes_per_batch * 3 - 1) == 64


def test_sensitivity_with_checkpoints() -> None:
    """The same Fisher matrices to the bit; what grows with depth is hidden states, and no block stays changed."""
    torch.manual_seed(0)
    most: dict[tuple[int, bool], int] = {}
    for depth in (2, 8):
        model, found = Deep(depth).eval(), []
        names = [f"blocks.{index}.down" for index in range(depth)]
        readers = {f"{name}.weight": Reader(f"{name}.weight", name, -1, 40) for name in names}
        for blocks in ((), blocks_of(model)):
            generator = torch.Generator().manual_seed(0)
            with Alive(model) as alive, checkpointed(model, blocks):
                found.append(measure_sensitivity(model, batches_of(2), readers, generator))
            most[depth, bool(blocks)] = alive.most
        assert found[0].keys() == found[1].keys()
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
        assert not any("forward" in module.__dict__ for module in model.modules())
    hidden, fisher = 32 * 7 * 16 * 4, 16 * 16 * 8
    assert most[8, True] - most[2, True] <= 6 * (hidden + fisher)
    assert most[8, False] - most[2, False] > 6 * 4 * hidden
