"""How is a pruned transformer written in the stock form, which `from_pretrained` reads without code of ours?"""

import copy
import functools
import itertools
import operator
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["save_pretrained"]

_TOLERANCE = 1e-4  # largest difference of an output over the largest output
_NUM_TOKENS = 8
_MOST_CHANGES = 256  # of several sizes at once that are tried
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon")
_OPEN = ("n_inner", "ffn_hidden_size", "intermediate_size", "ffn_dim")  # hidden units; None is a multiple of the width


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write a pruned model so that `from_pretrained` of transformers reads it, without any code of ours.

    Its configuration can say one size for all layers, so all layers must have kept equally many units, as they do with
    `target_units` or `cut="uniform"`. What was written is read back before it gets its place: nothing is left in the
    folder that a stock model would read as another network.

    Args:
        model: from :func:`snp.prune` or :func:`snp.load`, of a class of transformers.
        folder: made if it is not there.

    Raises:
        ValueError: layers have different sizes, or a stock model computes something else with these weights.
    """
    owner: Any = model
    dense, target = owner.config, Path(folder)
    config = _config_of_sizes(model)
    config.use_cache = True
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as draft:
        try:
            owner.config = config
            owner.save_pretrained(draft)
        finally:
            owner.config = dense
        _require_same(model, type(model).from_pretrained(draft, local_files_only=True))  # type: ignore[attr-defined]
        for path in Path(draft).iterdir():
            path.replace(target / path.name)


def _require_same(model: nn.Module, stock: nn.Module) -> None:
    """The stock model has the very same tensors, and computes the same where it reads tokens."""
    wanted, found = model.state_dict(), stock.state_dict()
    names = [name for name in wanted if name not in found or not _is_equal(wanted[name], found[name])]
    if names or wanted.keys() != found.keys():
        names = names or sorted(found.keys() - wanted.keys())
        raise ValueError(
            f"a stock {type(model).__name__} reads other tensors than were written ({', '.join(names[:3])}): use "
            "snp.save and snp.load"
        )
    reads_tokens = getattr(model, "main_input_name", None) == "input_ids"
    if not reads_tokens or hasattr(model.config, "vision_config"):  # of images beside them
        return
    outputs = []
    for network in (model, stock):
        was_training = network.training
        device = next(network.parameters()).device
        tokens = torch.arange(_NUM_TOKENS, device=device)[None] + 3
        written = {"decoder_input_ids": tokens} if getattr(model.config, "is_encoder_decoder", False) else {}
        with torch.no_grad():
            outputs.append(_first(network.eval()(tokens, **written)).float().cpu())
        network.train(was_training)
    difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max().clamp_min(1e-30))
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"a stock {type(model).__name__} computes something else with these weights (outputs differ by "
            f"{difference:.1e}): use snp.save and snp.load"
        )


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.cpu(), other.cpu().to(one.dtype))


def _first(outputs: Any) -> Tensor:
    while not isinstance(outputs, Tensor):
        outputs = next(iter(outputs.values())) if hasattr(outputs, "values") else outputs[0]
    return outputs


def _config_of_sizes(model: nn.Module) -> Any:
    """A copy of the configuration, one of its sizes changed where that gives the tensors that the model has."""
    owner: Any = model
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    config = copy.deepcopy(owner.config)
    _set_epsilon(config, model)
    stock = _shapes(type(model), config)
    if stock == wanted:
        return config
    pairs = sorted(
        {
            (size, kept)
            for name, shape in wanted.items()
            for size, kept in zip(stock.get(name, ()), shape, strict=False)
            if size != kept
        }
    )
    for changes in _changes(config.to_dict(), pairs):
        changed = _changed(config, changes)
        if changed is not None and _shapes(type(model), changed) == wanted:
            return changed
    raise ValueError(
        f"no configuration of {type(model).__name__} gives layers of the sizes {sorted({kept for _, kept in pairs})}: "
        "prune with target_units=..., or with cut='uniform', so that all layers keep equally many units, or use "
        "snp.save and snp.load; sizes of heads, and a width that is no longer that of all heads, only few can say"
    )


def _set_epsilon(config: Any, model: nn.Module) -> None:
    """The epsilon of the norms, which a smaller width changes, where the configuration says one for all of them."""
    names = [name for name in _EPSILONS if isinstance(getattr(config, name, None), float)]
    norms = [module for module in model.modules() if type(module).__name__.lower().endswith("norm")]
    found = {getattr(norm, name) for norm in norms for name in ("eps", "variance_epsilon") if hasattr(norm, name)}
    if len(names) == len(found) == 1:
        setattr(config, names[0], found.pop())


def _changed(config: Any, changes: Mapping[str, int]) -> Any:
    """A copy of a configuration with other numbers; None where it computes one of them from others (Falcon)."""
    changed = copy.deepcopy(config)
    for path, value in changes.items():
        *parents, field = path.split(".")
        owner = functools.reduce(getattr, parents, changed)
        computed = getattr(type(owner), field, None)
        if isinstance(computed, property) and computed.fset is None:
            return None
        setattr(owner, field, value)
    return changed


def _changes(fields: Mapping[str, Any], pairs: Sequence[tuple[int, int]]) -> Iterator[dict[str, int]]:
    """Fields of a configuration that could say the sizes: one or all that hold a size, with fewer heads or without."""
    flat = dict(_flat(fields))
    named = [_sized(flat, size, kept) for size, kept in pairs]
    sizes: list[dict[str, int]] = [{}, *(change for changes in named for change in changes)]
    # Several sizes at once, as of experts and what stands beside them.
    several = itertools.islice(itertools.product(*([{}, *changes] for changes in named)), _MOST_CHANGES)
    sizes += [functools.reduce(operator.or_, changes) for changes in several if sum(map(bool, changes)) > 1]
    heads: list[dict[str, int]] = [{}]
    dense, width = fields.get("num_attention_heads"), fields.get("hidden_size")
    if isinstance(dense, int) and isinstance(width, int):
        size, shared = fields.get("head_dim") or width // dense, fields.get("num_key_value_heads") or dense
        heads += [
            {"num_attention_heads": count * (dense // shared), "num_key_value_heads": count, "head_dim": size}
            for count in range(1, shared)
        ]
        # Of a smaller width heads keep their size, which many configurations derive from the width unless they say it.
        heads += [{"head_dim": size}]
    yield from ({**size, **fewer} for fewer in heads for size in sizes)


def _sized(fields: Mapping[str, Any], size: int, kept: int) -> list[dict[str, int]]:
    """What could make one size another one: every field that holds it, all of them, or one that is left open."""
    # Another size of heads would change the scale of the logits with it.
    holding = [f for f, v in fields.items() if type(v) is int and v == size and not f.endswith("head_dim")]
    leaves = {path: path.rpartition(".")[2] for path in fields}
    found = [{path: kept} for path in holding] + ([dict.fromkeys(holding, kept)] if len(holding) > 1 else [])
    # Fields of one name, in configurations of towers or for encoder and decoder.
    for word in ("intermediate", "ffn", "inner", "d_ff"):
        alike = [path for path in holding if word in leaves[path]]
        found += [dict.fromkeys(alike, kept)] if 1 < len(alike) < len(holding) else []
    return found + [{path: kept} for path, value in fields.items() if value is None and leaves[path] in _OPEN]


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of a configuration and of those inside it, by dotted names."""
    for name, value in fields.items():
        if isinstance(value, dict) and name.endswith("config"):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shapes(kind: Any, config: Any) -> dict[str, tuple[int, ...]]:
    """Tensors of a stock model of that configuration; none where it refuses the sizes."""
    try:
        with torch.device("meta"):
            stock: nn.Module = kind(config)
    except (ValueError, AssertionError, RuntimeError):
        return {}
    return {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()}
