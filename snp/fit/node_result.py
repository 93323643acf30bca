"""What does a node of an exported graph compute?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from snp.graph.exported import is_inplace

__all__ = ["result_of"]


def result_of(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """What a node computes.

    Args:
        node: a call of an operator.
        value: gives the value of each of its arguments.
    """
    target = node.target
    assert callable(target)
    args: Any = fx.node.map_arg(node.args, value)
    kwargs: Any = fx.node.map_arg(node.kwargs, value)
    if is_inplace(node):
        # The value that is written over may still be needed under its old name.
        args = (args[0].clone(), *args[1:])
    return target(*args, **kwargs)
