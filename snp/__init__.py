"""How is a network pruned in one call?  ``import snp; result = snp.prune(model, batches, target_var=0.95)``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snp.library import inspect, load, prune, save
    from snp.plan.plan import PruningPlan as Plan
    from snp.pruning import PruneResult
    from snp.settings import PruneSettings

__all__ = ["Plan", "PruneResult", "PruneSettings", "inspect", "load", "prune", "save"]

# Fetched when first asked for, so that a command line answers without the seconds that torch takes.
_HOMES = {
    "Plan": ("snp.plan.plan", "PruningPlan"),
    "PruneResult": ("snp.pruning", "PruneResult"),
    "PruneSettings": ("snp.settings", "PruneSettings"),
    **{name: ("snp.library", name) for name in ("inspect", "load", "prune", "save")},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
