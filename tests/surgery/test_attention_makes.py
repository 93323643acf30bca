"""Do the modules of further families bear cuts: other norms, other tables, maps, windows, sizes per stage?"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import snp
from snp.graph import CouplingGraph, analyse
from snp.surgery.rotary_places import turning_of
from tests.attention_networks import assert_cut_is_right_and_counted, check_structures, in_place_of_stock, irregular
from tests.audit import outputs, randomise

ALL = ("ffn", "vo", "qk", "heads")
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 32,
    "max_position_embeddings": 32, "use_cache": False, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
SHARED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
HALF_TURNED = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}}
IMAGES = {**SIZES, "image_size": 16, "patch_size": 4}
# Name -> configuration, and how many groups of each kind there are.
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "neighbours are turned": ({**SHARED, "model_type": "ernie4_5"}, {"qk": 1, "vo": 1, "heads": 1}),
    "half of the neighbours": ({**SHARED, **HALF_TURNED, "model_type": "glm"}, {"qk": 2, "vo": 1, "heads": 1}),
    "pairs of tables": ({**SHARED, "model_type": "cohere"}, {"qk": 1, "vo": 1, "heads": 1}),
    "heads are normed together": ({**SHARED, "model_type": "olmo2"}, {"vo": 1}),
    "norms of a name of their own": ({**SIZES, **HALF_TURNED, "model_type": "persimmon"}, {"vo": 1, "heads": 1}),
    "queries are scaled before": (
        {**SIZES, "model_type": "esm", "position_embedding_type": "rotary", "mask_token_id": 3},
        {"qk": 1, "vo": 1, "heads": 1},
    ),
    "patches alone are turned": ({**IMAGES, "model_type": "dinov3_vit"}, {"qk": 1, "vo": 1, "heads": 1}),
    "scale of another name": ({**IMAGES, "model_type": "clip_vision_model"}, {"qk": 1, "vo": 1, "heads": 1}),
    "keys of a coarser map": (
        {"model_type": "segformer", "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1],
         "hidden_sizes": [16, 16], "patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [2, 2],
         "mlp_ratios": [2, 2]},
        {"qk": 2, "vo": 2, "heads": 2},
    ),
    "shifted windows": (
        {"model_type": "swin", "image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2], "num_heads": [2],
         "window_size": 4, "drop_path_rate": 0.0},
        {"qk": 2, "vo": 2, "heads": 2},
    ),
}  # fmt: skip


def inputs(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if "vocab_size" in CONFIGS[name][0] and "image_size" not in CONFIGS[name][0]:
        return torch.randint(4, 32, (2, 9), generator=generator)
    return torch.randn(2, 3, 16, 16, generator=generator)


def transformer(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**CONFIGS[name][0])).eval())


@cache
def analysed(name: str) -> tuple[nn.Module, CouplingGraph]:
    model = transformer(name)
    return model, analyse(model, inputs(name), ALL)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_structure_is_found_and_passes_the_audit(name: str) -> None:
    """As many of each kind as there are, and none that another unit's values depend on."""
    model, graph = analysed(name)
    check_structures(model, graph, inputs(name), CONFIGS[name][1])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kinds", [("qk", "vo", "heads"), ("heads", "vo"), ("qk",)])
def test_cut_is_the_mask_and_costs_are_exact(name: str, kinds: tuple[str, ...]) -> None:
    model, graph = analysed(name)
    groups = tuple(group for group in graph.groups if group.kind in kinds)
    plan = irregular(graph, groups, seed=3)
    assert_cut_is_right_and_counted(model, graph, groups, plan, inputs(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_cut_it_is_the_stock_module(name: str) -> None:
    model, graph = analysed(name)
    ours = in_place_of_stock(model, graph)
    torch.testing.assert_close(outputs(ours, inputs(name)), outputs(model, inputs(name)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["keys of a coarser map", "shifted windows", "half of the neighbours"])
def test_comes_back_from_disk_and_exports(name: str, tmp_path: Path) -> None:
    batches = [inputs(name)] * 4
    result = snp.prune(transformer(name), batches, structures=ALL, target_units=0.6, calibration="joint")
    snp.save(result, tmp_path)
    again = snp.load(tmp_path, transformer(name)).eval()
    assert torch.equal(outputs(again, inputs(name)), outputs(result.model.eval(), inputs(name)))
    program = torch.export.export(again, (inputs(name),), strict=False).module()
    torch.testing.assert_close(outputs(program, inputs(name)), outputs(again, inputs(name)))


@pytest.mark.parametrize(
    ("family", "tables", "pairs"),
    [
        ("llama", "full", [(0, 4), (2, 6), (3, 7)]),
        ("cohere", "full", [(0, 1), (4, 5)]),
        ("ernie4_5", "neighbours", [(2, 3), (4, 5)]),
        ("gpt_oss", "halves", [(1, 5), (3, 7)]),
        ("phi3", "full", [(0, 4), (1, 5), (2, 6)]),
    ],
)
@pytest.mark.parametrize("behind", [0, 3])
def test_dimensions_that_are_left_turn_as_in_the_dense_head(
    family: str, tables: str, pairs: list[tuple[int, int]], behind: int
) -> None:
    """Whole heads turned and then picked from are picked from and then turned, with dimensions behind or without."""
    file = getattr(transformers.models, family)
    turn = __import__(f"{file.__name__}.modeling_{family}", fromlist=["x"]).apply_rotary_pos_emb
    turning = turning_of(turn, 8)
    assert turning.tables == tables
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 2, 4, 5, 8 + behind, generator=generator)
    cos, sin = torch.randn(2, 1, 5, 4, generator=generator)
    if tables == "full":
        spread = {"cohere": lambda part: part.repeat_interleave(2, -1)}.get(family, lambda part: part.repeat(1, 1, 2))
        cos, sin = spread(cos), spread(sin)
    elif tables == "neighbours":
        cos, sin = cos.repeat(1, 1, 2), sin.repeat(1, 1, 2)
    whole = turning.heads(query, key, (cos, sin), None, ())
    assert not torch.allclose(whole[0][..., :8], query[..., :8])
    torch.testing.assert_close(whole[0][..., 8:], query[..., 8:])
    left = sorted(place for pair in pairs for place in pair) + list(range(8, 8 + behind))[1:]
    places = torch.tensor([left, left])  # of two heads of keys, each for two heads of queries
    found = turning.heads(query[..., left], key[..., left], (cos, sin), places, left)
    for part, wanted in zip(found, whole, strict=True):
        torch.testing.assert_close(part, wanted[..., left])
