"""Which heads were one tensor with an embedding, and are layers of their own where the width is cut?"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["UntiedHead", "untie", "untied_heads", "with_plain_heads"]


class UntiedHead(nn.Linear):
    """A head that was one tensor with an embedding, and is a layer of its own now: the last norm's weight is in it."""


def untied_heads(model: nn.Module) -> frozenset[str]:
    """Names of the weights of heads that were tied to an embedding."""
    modules = model.named_modules(remove_duplicate=False)
    return frozenset(f"{name}.weight" for name, module in modules if isinstance(module, UntiedHead))


def untie(model: nn.Module) -> None:
    """Heads get weights of their own, as the network's configuration says from here on."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) in tables]
    for head in heads:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        if type(head) is nn.Linear:
            head.__class__ = UntiedHead
    config: Any = getattr(model, "config", None)
    if heads and hasattr(config, "tie_word_embeddings"):
        config.tie_word_embeddings = False


def with_plain_heads(model: nn.Module) -> nn.Module:
    """The network with heads of the stock class again, which it is changed for."""
    for module in model.modules():
        if isinstance(module, UntiedHead):
            module.__class__ = nn.Linear  # type: ignore[assignment]
    return model
