"""What may be asked of a prune?  One validated set of options, the same for the library and the command line.

Options, their defaults, limits and meaning are written in this folder and nowhere else: docstrings are made of them,
and ``conf/config.yaml``, which ``--help`` shows, is held to them by a test.
"""

from snp.settings.fit import FitSettings
from snp.settings.prune import PLANNERS, PruneSettings
from snp.settings.target import TargetSettings

__all__ = ["PLANNERS", "FitSettings", "PruneSettings", "TargetSettings"]
