"""Does a fit in sequence end where it has fitted everything, and is it none the worse for that?"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx

import snp
from snp.core.sums import ALONE
from snp.fit.recomputed import RecomputedNetworks
from snp.fit.two_networks import TwoNetworks
from snp.fit.within_memory import networks_within
from snp.graph.batches import Batch
from snp.models import huggingface
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.transformer_models import GATED, token_batches, transformer


class UpTo:
    """Changes nothing, and looks at every node down to the one named."""

    def __init__(self, name: str) -> None:
        self._name, self.seen = name, list[str]()

    def visit(self, networks: TwoNetworks, node: fx.Node) -> None:
        self.seen.append(node.name)

    def fits_at(self, networks: TwoNetworks, node: fx.Node) -> bool:
        return any(networks.name_of(argument) == self._name for argument in node.all_input_nodes)


@pytest.mark.parametrize("block_by_block", [False, True])
def test_nothing_behind_the_last_fit_is_computed(block_by_block: bool) -> None:
    """Neither the logits, of 512 words for 16 channels, nor their bytes."""
    torch.manual_seed(0)
    model = huggingface.build(config={**GATED, "model_type": "llama", "vocab_size": 512}).eval()
    batches = Batch.all(token_batches())[:1]
    subject = subject_of(model, batches[0].args[0][:2], PruneSettings())
    whole = TwoNetworks(model, batches, lambda *_: None)
    logits = 2 * batches[0].size * 12 * 512 * 4  # of both networks
    blocks = ("model.layers.0", "model.layers.1") if block_by_block else ()
    fitter = UpTo("model.layers.1.mlp.down_proj.weight")
    memory = whole.bytes_per_batch - logits // 2
    networks = networks_within(0 if block_by_block else memory, replace(subject, blocks=blocks), batches, fitter, ALONE)
    networks.run()
    assert isinstance(networks, RecomputedNetworks) == block_by_block
    assert networks.end is not None
    assert fitter.seen[-1] == networks.end.name
    assert "lm_head.weight" not in {networks.name_of(n) for node in networks.current for n in node.all_input_nodes}
    assert networks.bytes_per_batch < memory
    if isinstance(networks, RecomputedNetworks):
        assert networks.fitting_size(memory) > networks.batch_size


@pytest.mark.parametrize("options", [{}, {"structures": ["ffn", "vo"]}, {"batch_norm": "reestimate"}])
def test_the_network_is_the_same_to_the_bit(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As where everything is computed to the end."""
    model, batches = transformer("opt"), token_batches()
    found = snp.prune(model, batches, target_params=0.8, progress=False, **options)
    monkeypatch.setattr("snp.fit.within_memory._ending", lambda networks, fitter: networks)
    whole = snp.prune(model, batches, target_params=0.8, progress=False, **options)
    pairs = zip(found.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    assert found.plan.to_json() == whole.plan.to_json()
    assert all(torch.equal(one, other) for one, other in pairs)
