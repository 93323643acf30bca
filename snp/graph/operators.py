"""What do operators that move values, or pad them, do to units?  And the register of all rules.

A rule gets the tracer, the node and its arguments (label tensors, :class:`Parameter` or plain values) and returns
the labels of the result. There is one rule per kind of operator; what has no rule freezes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.aten import FILLED, SHAPE
from snp.graph.counting import macs_of_operator
from snp.graph.labels import compact, shared
from snp.graph.shuffles import tie_shuffled
from snp.graph.splits import along
from snp.graph.traced import Parameter, Split, Turned, module_running, turned
from snp.graph.tracer import Rule, Tracer

__all__ = ["RULES", "TURNED", "constant_along", "rule", "unknown"]

RULES: dict[str, Rule] = {}
TURNED: set[str] = set()  # operators whose rules know parameters that were turned round; others get their elements


def rule(*names: str, takes_turned: bool = False) -> Callable[[Rule], Rule]:
    """Enter a rule for operators of these names, and for those that write in place."""

    def register(function: Rule) -> Rule:
        for name in names:
            full = name if "::" in name else f"aten::{name}"
            RULES[full] = RULES[f"{full}_"] = function
            if takes_turned:
                TURNED.add(full)
        return function

    return register


def unknown(tracer: Tracer, node: fx.Node, args: list[Any], reason: str = "") -> Any:
    """Freeze all that enters, give out labels that freeze what they meet, and count what it costs."""
    known = reason or f"{node.target}, which the analysis does not know"
    tracer.freeze_inputs(args, f"enters {known}")
    tracer.spend(macs_of_operator(node))
    return tracer.constant_like(node, f"comes out of {known}")


@rule(*FILLED.split())
def _filled(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    return tracer.labels.blank(tuple(node.meta["val"].shape))


@rule(*SHAPE.split(), takes_turned=True)
def _shape(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    if isinstance(args[0], (Parameter, Turned)) and (found := turned(node, args)) is not None:
        return found
    shadows = [_shadow_tree(tracer, value) for value in args]
    assert callable(node.target)
    if any(word in str(node.target) for word in ("view.default", "reshape.default", "flatten.")):
        tie_shuffled(tracer, shadows[0], tuple(node.meta["val"].shape))
    if "view.default" in str(node.target):
        # Labels need not lie in memory as the activations do.
        return shadows[0].reshape(shadows[1])
    labels: Any = node.target(*shadows, **{k: v for k, v in node.kwargs.items() if not isinstance(v, fx.Node)})
    labels = shared(labels) if isinstance(labels, Tensor) else labels
    if "channel_shuffle" in str(node.target):
        # The same places of every group go: what is left is then shuffled to the right places again.
        first, *others = shadows[0].chunk(args[1], dim=1)
        for other in others:
            tracer.labels.tie(first, other)
    is_part = any(word in str(node.target) for word in ("slice", "select", "narrow"))
    if is_part and constant_along(tracer, shadows[0], args[1] if len(args) > 1 else 0):
        tracer.streams.whole.add(node)
    if "chunk" in str(node.target):
        tracer.chunks.append(list(labels))
    if "split" in str(node.target):
        parts = along(labels, *args[2:])
        tracer.splits.append(Split(module_running(node), tuple(map(len, parts)), parts))
        if isinstance(args[1], int) and len({part.shape for part in labels}) == 1:
            tracer.chunks.append(list(labels))
    return labels


def _shadow_tree(tracer: Tracer, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_shadow_tree(tracer, entry) for entry in value]
    return tracer.shadow(value) if isinstance(value, (Parameter, Turned)) else value


@rule(
    *("pad", "constant_pad_nd", "_pad_circular"),
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
)
def _pad(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, widths = tracer.shadow(args[0]), args[1]
    if shadow is None:
        return unknown(tracer, node, args)
    padded_dims = [shadow.ndim - 1 - i // 2 for i, width in enumerate(widths) if width]
    if all(constant_along(tracer, shadow, dim) for dim in padded_dims):
        # Spatial padding: zeros, or repeats of a channel's own values, still belong to that channel.
        return _grow(shadow, node.meta["val"].shape)
    mode = args[2] if node.target is torch.ops.aten.pad.default and len(args) > 2 else "constant"
    if mode != "constant" or not any(word in str(node.target) for word in (".pad.", "constant")):
        return unknown(tracer, node, args)
    filler = int(tracer.labels.constant((1,), "meets channels that are padded with zeros"))
    return torch.nn.functional.pad(shadow, widths, value=filler)


def constant_along(tracer: Tracer, shadow: Tensor, dim: int) -> bool:
    """Does each line of labels along a dimension hold one unit only?"""
    if shadow.shape[dim] == 1 or shadow.stride(dim) == 0:
        return True
    (shadow,) = compact(shadow)
    first = shadow.narrow(dim, 0, 1)
    if bool((shadow == first).all()):
        return True
    return bool((tracer.labels.roots(shadow) == tracer.labels.roots(first)).all())


def _grow(shadow: Tensor, shape: torch.Size) -> Tensor:
    for dim, (have, want) in enumerate(zip(shadow.shape, shape, strict=True)):
        if have != want:
            shadow = shadow.narrow(dim, 0, 1).expand(*[want if d == dim else s for d, s in enumerate(shadow.shape)])
    return shadow
