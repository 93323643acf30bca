"""Are random networks of all coupling shapes pruned rightly?  ``python benchmarks/fuzz.py --networks N --seed S``.

Network i is drawn from seed S + i, together with what is asked of its prune; ``--networks 1 --seed I`` repeats one. The
result does not depend on ``--processes``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import torch
from fuzzing.checks import Outcome, examine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--every", action="store_true", help="print every network, not only wrong ones")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.networks)
    outcomes, started = [], time.perf_counter()
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn"), _start) as pool:
        for seed, outcome in zip(seeds, pool.map(examine, seeds), strict=True):
            outcomes.append(outcome)
            if outcome.status == "wrong" or arguments.every:
                print(f"{outcome.status}: seed {seed}: {outcome.reason}\n  {outcome.words}", flush=True)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} of {len(seeds)}", file=sys.stderr, flush=True)
    _summary(outcomes, time.perf_counter() - started)


def _start() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _summary(outcomes: list[Outcome], seconds: float) -> None:
    refused = Counter(outcome.reason[:90] for outcome in outcomes if outcome.status == "refused")
    for reason, count in refused.most_common(8):
        print(f"refused {count}: {reason}")
    cut = sum(outcome.cut > 0 for outcome in outcomes)
    print(f"{len(outcomes)} networks in {seconds:.0f} s: {cut} cut, {refused.total()} refused with a sentence")
    print(f"wrong {sum(outcome.status == 'wrong' for outcome in outcomes)} of {len(outcomes)}")


if __name__ == "__main__":
    main()
