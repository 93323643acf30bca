"""How is a pruned network written to a folder, and brought back from it without pickle?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snp.graph.batches import Batch
from snp.graph.copies import refuse_meta
from snp.graph.input_forms import example_of
from snp.graph.modes import as_before
from snp.graph.plain_weights import plain_for
from snp.graph.wrappers import alike, evaluated
from snp.measure.outputs import first_tensor
from snp.models.sources.module_settings import kinds_apart, settings_apart
from snp.models.sources.weights import read_weights, stored_types, write_weights
from snp.plan.plan import PruningPlan
from snp.pruning import PruneResult
from snp.surgery.layer_lists import lengthened
from snp.surgery.stock_form import in_stock_form
from snp.surgery.surgery import cut, shapes_of

__all__ = ["load", "save"]

_MOST_PARAMETERS = 2**28  # of networks that are built once more to see whether a recipe is theirs


def save(result: PruneResult, folder: str | Path, recipe: dict[str, Any] | None = None) -> None:
    """Write ``plan.json`` and ``pruned.safetensors``.

    Networks of timm and transformers know how they were built. Their recipe is kept where a network loaded by it
    is of the same class, and on two samples computes the very same; with it what single modules are set to (rates of
    dropout, epsilons and momenta of norms) and how text is generated. Where it does not, or has modules of other
    kinds, a warning of the logger ``snp`` says so. Others need ``recipe`` here, or their dense model at :func:`load`.

    Args:
        result: from :func:`snp.prune`.
        folder: made if it is not there.
        recipe: arguments of ``snp.models.build`` for the dense model, so that :func:`load` needs nothing else.

    Raises:
        TypeError: ``result`` is something else, perhaps the network alone.
        ValueError: its network has other layers than the prune left, which :func:`load` could not make.
    """
    if not isinstance(result, PruneResult):
        raise TypeError(
            f"result must be what snp.prune returned, found {type(result).__name__}: the plan is saved with the "
            "network; of a network that was trained on, save dataclasses.replace(result, model=network)"
        )
    _refuse_changed(result)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_weights(result.model, target / "pruned.safetensors", {"plan": result.plan.mark})
    plan = result.plan.with_recipe(recipe or result.plan.recipe)
    plan.save(target / "plan.json")
    if plan.recipe is None and plan.inputs and _num_parameters(result.model) <= _MOST_PARAMETERS:
        with torch.random.fork_rng(devices=[]):
            _keep_recipe(result.model, plan, target)


def _refuse_changed(result: PruneResult) -> None:
    """The network is what the plan makes of the dense one, whatever its weights are."""
    wanted, found = result.shapes, shapes_of(result.model)
    names = [name for name in (*wanted, *found) if wanted.get(name) != found.get(name)]
    if names:
        was, now = (list(shapes[names[0]]) if names[0] in shapes else "none" for shapes in (wanted, found))
        raise ValueError(
            f"result.model has other layers than the prune left, so that snp.load could not make it: {names[0]} had "
            f"the shape {was} and has {now}. Save what was pruned and change it once it is loaded, or write the "
            "changed network by torch.save"
        )


def load(folder: str | Path, model: nn.Module | None = None, weights: str = "pruned") -> nn.Module:
    """The pruned network of a folder, in evaluation mode.

    Args:
        folder: with ``plan.json`` and ``pruned.safetensors``.
        model: the dense network (its weights do not matter) where the plan holds no recipe; it is not changed.
        weights: ``"pruned"``; ``"tuned"`` or ``"finetuned"`` for those of ``tuned.safetensors`` and so on.

    Raises:
        ValueError: files are missing, damaged or of another run, the plan needs ``model``, or its recipe asks for more
            than the architecture of a network.
    """
    source = Path(folder)
    plan = PruningPlan.load(source / "plan.json")
    if model is None and plan.recipe is None:
        raise ValueError(
            f"{source / 'plan.json'} holds no recipe of the dense model: call load(folder, model=...) with it"
        )
    if model is not None:
        refuse_meta(model, "build it on the CPU, with any weights")
    return _loaded(source, plan, model, weights)


def _loaded(source: Path, plan: PruningPlan, model: nn.Module | None = None, weights: str = "pruned") -> nn.Module:
    given = model
    if model is None:
        from snp.models import rebuild  # not needed by those who bring their own model

        assert plan.recipe is not None
        model = rebuild(plan.recipe)
    # Attention and norms were written in plain layers where dimensions of them were asked for, which are drawn first.
    with evaluated(model) as dense, torch.random.fork_rng(devices=[]):
        small = in_stock_form(cut(plain_for(dense, plan.settings.get("structures", ())), plan), plan)
    if given is None:
        _as_stored(small, stored_types(source / f"{weights}.safetensors"))
    read_weights(small, source / f"{weights}.safetensors", plan.mark)
    return (small if given is None else alike(small, given)).eval()


def _as_stored(small: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Recipes build in single precision; weights of another stay to the bit what they were."""
    for name, tensor in chain(small.named_parameters(), small.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(types.get(name, tensor.dtype))


@dataclass(frozen=True)
class _Tried:
    """A plan with a recipe.

    Attributes:
        plan: as it will be read.
        reason: why the folder would load by it as another network than it holds; None where it computes the same.
        apart: what is not the same all the same, in words; empty where all of it is.
    """

    plan: PruningPlan
    reason: str | None
    apart: str = ""


def _keep_recipe(small: nn.Module, plan: PruningPlan, folder: Path) -> None:
    """Put the first recipe into the plan by which the folder loads as the same network; say why where none does."""
    from snp.models._recipes import recipes_of  # not needed by networks of others

    tries = list[_Tried]()
    for recipe in recipes_of(small, plan.inputs, lengthened(small, plan.removed_blocks)):
        tries.append(_tried(small, folder, plan.with_recipe(recipe)))
        if tries[-1].reason is None and not tries[-1].apart:
            break
    same = [each for each in tries if each.reason is None]
    best = next((each for each in same if not each.apart), same[0] if same else None)
    path, said = folder / "plan.json", logging.getLogger("snp").warning
    if best is not None:
        best.plan.save(path)
    if best is not None and best.apart:
        said(f"{path} gives a network that computes the same, but {best.apart}: call load(folder, model=...) for that")
    elif tries and best is None:
        said(f"{path} holds no recipe of the dense model, so that load(folder, model=...) needs it: {tries[-1].reason}")


def _tried(small: nn.Module, folder: Path, plan: PruningPlan) -> _Tried:
    """Does the folder load as the network that it holds, by the recipe of this plan and settings of single modules?"""
    plan = PruningPlan.from_json(plan.to_json())
    try:
        again = _loaded(folder, plan)
        if settings := settings_apart(small, again):
            plan = PruningPlan.from_json(plan.with_recipe({**(plan.recipe or {}), "settings": settings}).to_json())
            again = _loaded(folder, plan)
        return _Tried(plan, _difference(small, again, example_of(plan.inputs, 2)), kinds_apart(small, again))
    except Exception as error:  # of its library's, whichever: what is written of the network is whole without a recipe
        first = next(iter(str(error).splitlines()), "")
        said = f"{type(small).__name__} cannot be built or called as its library would: {type(error).__name__}: {first}"
        return _Tried(plan, said)


def _difference(small: nn.Module, again: nn.Module, batch: Batch) -> str | None:
    """Why it is another network; None where it is of the same class and computes the same."""
    if type(again) is not type(small):
        return f"it is built as {type(again).__name__}, and is {type(small).__name__}"
    again = again.to(next(small.parameters()).device)
    with torch.no_grad(), as_before(small):
        wanted, found = (first_tensor(batch.beside(model).call(model)) for model in (small.eval(), again))
    alike = (wanted.shape, wanted.dtype) == (found.shape, found.dtype)
    is_same = alike and torch.allclose(wanted, found, rtol=1e-4, atol=1e-6)
    return None if is_same else f"{type(again).__name__} as its library builds it computes something else than it does"


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
