"""Are heads of timm's networks cut right where scores get biases of positions, or queries and keys are turned?"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import snp
from snp.graph import CouplingGraph, analyse
from snp.plan.plan import PruningPlan
from snp.surgery.attention_tables import TableAttention, is_of_tables
from snp.surgery.surgery import cut
from tests.attention_networks import assert_cut_is_right_and_counted, check_structures, irregular
from tests.audit import outputs, randomise

ALL = ("ffn", "vo", "qk", "heads")
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 5}
# Name -> model, its sizes, and kinds of groups in attention. EVA-02 keeps its tables as buffers, which stay whole.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "shifted windows": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depths": (2,), "num_heads": (3,), "window_size": 4,
         "num_classes": 5},
        {"qk": 2, "vo": 2, "heads": 2},
    ),
    "turned, one projection": ("eva02_tiny_patch14_224", {**SMALL, "qkv_fused": True}, {"vo": 1, "heads": 1}),
    "turned, three projections": (
        "eva02_tiny_patch14_224", {**SMALL, "qkv_fused": False}, {"vo": 1, "heads": 1},
    ),
    "turned by halves": ("vit_tiny_patch16_dinov3_qkvb", SMALL, {"qk": 1, "vo": 1, "heads": 1}),
    "biases of a table": ("beit_base_patch16_224", SMALL, {"qk": 1, "vo": 1, "heads": 1}),
    "relative positions": ("vit_relpos_small_patch16_224", SMALL, {"qk": 1, "vo": 1, "heads": 1}),
}  # fmt: skip


def pictures(name: str, count: int = 2) -> Tensor:
    size = MODELS[name][1]["img_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model, sizes, _ = MODELS[name]
    return randomise(timm.create_model(model, **sizes).eval())


@cache
def analysed(name: str) -> tuple[nn.Module, CouplingGraph]:
    model = built(name)
    return model, analyse(model, pictures(name), ALL)


@pytest.mark.parametrize("name", MODELS)
def test_every_structure_is_found_and_passes_the_audit(name: str) -> None:
    """As many of each kind as there are, and none that another unit's values depend on."""
    model, graph = analysed(name)
    check_structures(model, graph, pictures(name), MODELS[name][2])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kinds", [("qk", "vo", "heads"), ("heads",), ("qk",)])
def test_cut_is_the_mask_and_costs_are_exact(name: str, kinds: tuple[str, ...]) -> None:
    model, graph = analysed(name)
    groups = tuple(group for group in graph.groups if group.kind in kinds)
    if not groups:
        return  # queries and keys that stay whole
    plan = irregular(graph, groups, seed=1)
    _, small = assert_cut_is_right_and_counted(model, graph, groups, plan, pictures(name))
    assert any(isinstance(module, TableAttention) for module in small.modules())


@pytest.mark.parametrize("name", MODELS)
def test_without_a_cut_it_is_the_stock_module_in_training_too(name: str) -> None:
    """The same values are dropped under one seed."""
    model, graph = analysed(name)
    ours = cut(model, PruningPlan((), attention=graph.attention))
    for layer in graph.attention:
        stock: Any = ours.get_submodule(layer.module)
        assert is_of_tables(stock)
        ours.set_submodule(layer.module, TableAttention(stock, layer.sizes(), layer.query.width**-0.5))
    torch.testing.assert_close(outputs(ours, pictures(name)), outputs(model, pictures(name)), rtol=1e-5, atol=1e-5)
    assert ours.state_dict().keys() == model.state_dict().keys()
    found = []
    for network in (ours, model):
        for module in network.modules():
            if hasattr(module, "attn_drop") and isinstance(module.attn_drop, nn.Dropout):
                module.attn_drop.p = 0.2
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(network.train()(pictures(name)))
        for module in network.eval().modules():
            if hasattr(module, "attn_drop") and isinstance(module.attn_drop, nn.Dropout):
                module.attn_drop.p = 0.0
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["shifted windows", "turned, one projection"])
def test_comes_back_from_disk_exports_and_is_pruned_again(name: str, tmp_path: Path) -> None:
    batches = [pictures(name, 8)]
    result = snp.prune(built(name), batches, structures=ALL, target_units=0.7, calibration="joint")
    snp.save(result, tmp_path)
    again = snp.load(tmp_path, built(name)).eval()
    assert torch.equal(outputs(again, pictures(name)), outputs(result.model.eval(), pictures(name)))
    program = torch.export.export(again, (pictures(name),), strict=False).module()
    torch.testing.assert_close(outputs(program, pictures(name)), outputs(again, pictures(name)))
    twice = snp.prune(again, batches, structures=ALL, target_units=0.6, calibration="joint")
    assert twice.plan.macs["dense"] == result.plan.macs["pruned"] > twice.plan.macs["pruned"]
