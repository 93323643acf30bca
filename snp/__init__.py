"""How is a network pruned in one call?  ``import snp; result = snp.prune(model, batches, target_var=0.95)``."""

from snp.library import PruneResult, inspect, load, prune, save

__all__ = ["PruneResult", "inspect", "load", "prune", "save"]
