"""How does the page say what forward passes take, and how that was measured?"""

from collections.abc import Mapping
from typing import Any

from snp.plan.table import time_sentence
from snp.report.stages import number

__all__ = ["NOISY_SPREAD", "in_turns", "is_noisy"]

NOISY_SPREAD = 0.2  # between the quartiles of the share, as a part of it


def is_noisy(metrics: Mapping[str, Any]) -> bool:
    """Do the quartiles of the measured share lie so far apart that it means little?"""
    share, low, high = (number(metrics, f"latency/measured_share{part}") for part in ("", "_low", "_high"))
    return share is not None and low is not None and high is not None and high - low > NOISY_SPREAD * share


def in_turns(metrics: Mapping[str, Any]) -> list[str]:
    """Say what passes of the dense and the pruned network took, measured in turns, and what the plan had predicted."""
    named = (name for name in metrics if name.startswith("latency/"))
    sentence = time_sentence({name.removeprefix("latency/"): number(metrics, name) for name in named})
    return [sentence] if sentence else []
