"""How long do passes of whole networks take, side by side, and do launches hide what a smaller one gains?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from snp.plan.latency_table import LatencyTable
from snp.speed.graphs import captured
from snp.speed.timing import Durations, time_in_turns

__all__ = ["MOST_IDLE", "Conditions", "Passes", "autocast_of", "passes_in_turns"]

MOST_IDLE = 0.1  # of a pass's time, in which the GPU waits for the next launch; above, graphs are timed
_PROBES = 7

Call = Callable[[], object]


@dataclass(frozen=True)
class Conditions:
    """How a pass is run where it is timed.

    Attributes:
        batch: samples, 1 or more.
        threads: CPU threads, 1 or more.
        autocast: precision of products; None for that of the weights.
        graphs: are passes replayed as CUDA graphs?  None decides by what is found.
    """

    batch: int
    threads: int
    autocast: torch.dtype | None = None
    graphs: bool | None = None

    @staticmethod
    def of(table: LatencyTable) -> Conditions:
        """Those under which a table of layer times was measured."""
        autocast = getattr(torch, table.autocast) if table.autocast else None
        return Conditions(table.batch, table.threads, autocast, table.graphs)

    def applied(self, call: Call, device: torch.device) -> Call:
        """The same call in this precision, whatever holds around it."""
        if self.autocast is None:
            return call

        def cast() -> object:
            # What is kept beyond one pass is not there for the first one, and not in a graph.
            with torch.autocast(device.type, self.autocast, cache_enabled=False):
                return call()

        return cast


def autocast_of(device: torch.device) -> torch.dtype | None:
    """The precision of products in which the caller runs networks on a device; None for that of their weights."""
    is_on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if is_on else None


@dataclass(frozen=True)
class Passes:
    """Passes in turns.

    Attributes:
        times: by name.
        graphs: were they replayed as CUDA graphs?
        idle: share of a pass's time, called layer by layer, in which the GPU waits for the CPU, of the network that
            waits most; 0 where nothing waits (on a CPU), or where nobody can tell.
    """

    times: Mapping[str, Durations]
    graphs: bool = False
    idle: float = 0.0


def passes_in_turns(
    calls: Mapping[str, Call],
    *,
    device: torch.device | str = "cpu",
    num_threads: int = 1,
    min_rounds: int = 5,
    min_seconds: float = 1.0,
    graphs: bool | None = None,
    capture: Callable[[Call, torch.device | str], Call | None] = captured,
) -> Passes:
    """Time passes in turns, as CUDA graphs where a GPU would wait for launches otherwise.

    Args:
        calls: name -> a pass, which does the same whenever it is called.
        device: of the networks.
        num_threads: CPU threads inside operations, 1 or more.
        min_rounds: passes of each network at least, 1 or more.
        min_seconds: that all of them take together at least.
        graphs: as an earlier measurement decided, for comparisons with it; None decides by what is found here.
        capture: gives a call's graph; None where it has none.
    """
    replays = {} if graphs is False else _replays(calls, device, capture)
    idle = 0.0
    if replays:
        both = {f"call {name}": call for name, call in calls.items()}
        both |= {f"graph {name}": call for name, call in replays.items()}
        found = time_in_turns(both, num_threads=num_threads, device=device, min_rounds=_PROBES, min_seconds=0.0)
        median = {name: statistics.median(times.wall) for name, times in found.items()}
        idle = max(0.0, *(1 - median[f"graph {name}"] / median[f"call {name}"] for name in calls))
    uses = bool(replays) and (graphs or idle > MOST_IDLE)
    times = time_in_turns(
        replays if uses else calls,
        num_threads=num_threads,
        device=device,
        min_rounds=min_rounds,
        min_seconds=min_seconds,
    )
    return Passes(times, uses, idle)


def _replays(
    calls: Mapping[str, Call], device: torch.device | str, capture: Callable[[Call, torch.device | str], Call | None]
) -> dict[str, Call]:
    """Graphs of all calls; none where one of them has none, because only like is compared with like."""
    found: dict[str, Call] = {}
    for name, call in calls.items():
        replay = capture(call, device)
        if replay is None:
            return {}
        found[name] = replay
    return found
