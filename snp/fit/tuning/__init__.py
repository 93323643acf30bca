"""How does a pruned network learn the dense one's outputs on calibration samples, without labels?"""

from snp.fit.tuning.samples import left_to_fit, refuse_few_to_tune
from snp.fit.tuning.tune import Tuned, tune

__all__ = ["Tuned", "left_to_fit", "refuse_few_to_tune", "tune"]
