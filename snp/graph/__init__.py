"""Which units stand or fall together, and who reads them?  Label propagation over ``torch.export``."""

from snp.graph.analysis import CouplingGraph, analyse

__all__ = ["CouplingGraph", "analyse"]
