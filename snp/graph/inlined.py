"""What does a program compute, once parts in which gradients are switched on or off stand in it like all others?

PyTorch puts what a network runs under ``torch.no_grad()`` or ``torch.set_grad_enabled`` into a program of its own.
Values do not depend on it, and nobody differentiates an exported program.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

__all__ = ["inline_gradient_modes"]

_WRAPPER = "wrap_with_set_grad_enabled"


def inline_gradient_modes(program: torch.export.ExportedProgram) -> None:
    """Put such parts into the program itself, in place."""
    renamed = _inline(program.graph_module)
    for before, after in renamed.items():
        program.graph_signature.replace_all_uses(before, after)


def _inline(module: fx.GraphModule) -> dict[str, str]:
    """Of one module; names of nodes that others stand for now."""
    renamed: dict[str, str] = {}
    for node in list(module.graph.nodes):
        if getattr(node.target, "__name__", "") != _WRAPPER:
            continue
        _, part, *inputs = node.args
        inner = getattr(module, str(part.target))
        _inline(inner)
        names = [each for each in inner.graph.nodes if each.op == "placeholder"]
        with module.graph.inserting_before(node):
            outputs: Any = module.graph.graph_copy(inner.graph, dict(zip(names, inputs, strict=True)))
        for user in list(node.users):
            assert user.target is operator.getitem, "the part gives out a tuple"
            user.replace_all_uses_with(outputs[user.args[1]])
            renamed[user.name] = outputs[user.args[1]].name
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        if not part.users:
            module.graph.erase_node(part)
    if renamed:
        module.recompile()
    return renamed
