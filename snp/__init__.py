"""How is a network pruned in one call?  ``import snp; result = snp.prune(model, batches, target_var=0.95)``."""

from snp.library import inspect, load, prune, save
from snp.plan.plan import PruningPlan as Plan
from snp.pruning import PruneResult
from snp.settings import PruneSettings

__all__ = ["Plan", "PruneResult", "PruneSettings", "inspect", "load", "prune", "save"]
