"""How do tests prove that a group is complete?  The audit lives in the package, where benchmarks find it, too."""

from snp.surgery.audit import audit, control, outputs, randomise

__all__ = ["audit", "control", "outputs", "randomise"]
