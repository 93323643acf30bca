"""Are whole blocks removed as users ask for it: one call, checked, saved, brought back, exported?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.models import huggingface
from snp.plan.plan import PruningPlan
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from snp.surgery.surgery import cut
from tests.residual_networks import Attending, Basic, chain, vectors

ASKED = {"structures": ("ffn", "blocks"), "progress": False}


def worthless(kind: type[nn.Module], number: int, writers: tuple[str, ...]) -> nn.Module:
    """Four blocks, one of which adds nothing."""
    model = chain(kind, 4)
    for name in writers:
        model.get_parameter(f"blocks.{number}.{name}").data.zero_()
    return model


@pytest.mark.parametrize(
    ("kind", "writers", "target"),
    [
        (Basic, ("last.weight", "last.bias"), {"target_macs": 0.645}),
        (Attending, ("out.weight", "out.bias", "down.weight", "down.bias"), {"target_params": 0.605}),
    ],
)
def test_one_call_takes_the_worthless_block(
    kind: type[nn.Module], writers: tuple[str, ...], target: dict[str, float], tmp_path: Path
) -> None:
    model, inputs = worthless(kind, 2, writers), vectors(kind, 160)
    result = snp.prune(model, inputs.split(40), **ASKED, **target)
    assert "blocks.2" in [block.name for block in result.plan.removed_blocks]
    assert isinstance(result.model.blocks[2], nn.Identity)
    for name in ("macs", "params"):
        counted = macs_of_batch(result.model.eval(), Batch((inputs[:2],))) if name == "macs" else sum(
            parameter.numel() for parameter in result.model.parameters()
        )  # fmt: skip
        assert getattr(result.plan, name)["pruned"] == counted
    (kept,) = target.values()
    counts = result.plan.macs if "target_macs" in target else result.plan.params
    assert kept - 0.011 <= counts["pruned"] / counts["dense"] <= kept
    assert "Removed as whole blocks: blocks.2" in str(result)
    snp.save(result, tmp_path)
    again = snp.load(tmp_path, chain(kind, 4))
    assert torch.equal(again(inputs[:8]), result.model(inputs[:8]))
    program = torch.export.export(result.model, (inputs[:2],)).module()
    torch.testing.assert_close(program(inputs[:2]), result.model(inputs[:2]))


def test_plans_do_not_depend_on_how_often_they_are_made() -> None:
    model, inputs = chain(Basic, 4), vectors(Basic, 160)
    first, second = (snp.prune(model, inputs.split(40), target_macs=0.553, **ASKED).plan for _ in range(2))
    assert first.mark == second.mark


def test_inspect_names_them() -> None:
    said = str(snp.inspect(chain(Basic), vectors(Basic, 2), structures=("ffn", "blocks")))
    assert "Blocks that can go as a whole: blocks.0, blocks.1, blocks.2." in said
    assert "as a whole" not in str(snp.inspect(chain(Basic), vectors(Basic, 2)))


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"target_var": 0.9}, r"prune\.target_macs, prune\.target_params or prune\.target_latency"),
        ({"target_units": 0.5}, r"prune\.target_macs, prune\.target_params or prune\.target_latency"),
        ({"trials": False}, "trial cuts"),
        ({"planner": "magnitude"}, "trial cuts"),
        ({"cut": "variance"}, "trial cuts"),
        ({"preset": "quick"}, "trial cuts"),
        ({"reconstruct": False}, "trial cuts"),
        ({"calibration": "joint"}, r"prune\.calibration=sequential"),
        ({"streams": True}, r"prune\.streams=false"),
    ],
)
def test_what_does_not_go_with_blocks_is_named(other: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=rf"prune\.structures with blocks goes with .*{found}.*leave blocks out"):
        PruneSettings(structures=("ffn", "blocks"), **other)


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def opt() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=16,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def qwen_of_two_kinds() -> nn.Module:
    """Layers take turns between windows and whole texts, as its configuration says for each."""
    transformers = pytest.importorskip("transformers")
    kinds = ["sliding_attention", "full_attention"] * 2
    config = transformers.Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, use_sliding_window=True, sliding_window=4, layer_types=kinds,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config)


def tokens(count: int) -> Tensor:
    return torch.randint(3, 40, (count, 12), generator=torch.Generator().manual_seed(0))


def random(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data *= 8
        return model


@pytest.mark.parametrize("gone", [(0,), (1, 2), (3,)])
@pytest.mark.parametrize("make", [llama, opt, qwen_of_two_kinds], ids=lambda make: make.__name__)
def test_language_models_have_fewer_layers(
    make: Callable[[], nn.Module], gone: tuple[int, ...], tmp_path: Path
) -> None:
    """A cache finds its layers by their numbers, and a stock model is built by the configuration alone."""
    subject = subject_of(random(make), tokens(2), PruneSettings(structures=("ffn", "blocks")))
    assert len(subject.removable) == 4
    small: Any = cut(subject.model, PruningPlan((), removed_blocks=tuple(subject.removable[n] for n in gone)))
    assert small.config.num_hidden_layers == 4 - len(gone)
    assert subject.model.config.num_hidden_layers == 4
    once, cached = (
        small.generate(tokens(3), max_new_tokens=9, do_sample=False, use_cache=use, pad_token_id=1)
        for use in (False, True)
    )
    assert torch.equal(once, cached)
    huggingface.save_pretrained(small, tmp_path)
    stock = type(small).from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(stock(tokens(3)).logits, small(tokens(3)).logits)
    assert len({number for number in gone}) + sum(1 for _ in _layers(stock)) == 4


def _layers(model: Any) -> nn.ModuleList:
    return model.get_decoder().layers


def test_a_language_model_loads_from_its_folder_alone(tmp_path: Path) -> None:
    model: Any = random(llama)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        model.get_submodule(f"model.layers.1.{name}").weight.data.zero_()
    result = snp.prune(model, tokens(160).split(40), target_params=0.6, **ASKED)
    assert "model.layers.1" in [block.name for block in result.plan.removed_blocks]
    snp.save(result, tmp_path)
    again = snp.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(tokens(4)).logits, result.model.eval()(tokens(4)).logits)


@pytest.mark.slow
def test_a_budget_between_two_numbers_of_blocks_is_refused_with_what_can_be_asked_for() -> None:
    """Without one block and with the fewest dimensions more is left than asked for, without the next one less."""
    model: Any = random(llama)
    for number in (1, 3):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.get_submodule(f"model.layers.{number}.{name}").weight.data *= 1e-3
    inputs, asked = tokens(128).split(32), {"structures": ("blocks", "qk"), "progress": False}
    with pytest.raises(ValueError, match="whole blocks and the units beside them: without 2 blocks") as refused:
        snp.prune(model, inputs, target_params=0.6, **asked)
    found = re.search(r"Ask for prune\.target_params=([0-9.]*[0-9])", str(refused.value))
    assert found is not None
    plan = snp.prune(model, inputs, target_params=float(found[1]), **asked).plan
    assert [block.name for block in plan.removed_blocks] == ["model.layers.1", "model.layers.3"]
