"""Which networks can be pruned?  Every family of a suite, its smallest variant, each in its own process.

``--suite timm`` and ``torchvision`` are all of their model files, ``transformers``, ``segmentation`` (needs
segmentation-models-pytorch), ``diffusers`` and ``own`` the lists in ``coverage_suites``: ``pip install -e '.[bench]'``.

Results are appended to a JSON-lines file, so that a killed run goes on where it was. ``--peer`` asks the same of
Torch-Pruning. The table goes to ``docs/coverage.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from coverage_checks import examine
from coverage_networks import Network, families, smallest_variant
from coverage_peer import examine_peer
from coverage_suites import SUITES, builders
from coverage_table import last_line, write_table
from harness import print_provenance

Key = tuple[str, str]
# What may be asked for -> the libraries whose networks that are.
CHOICES = {"timm": ("timm",), "torchvision": ("torchvision", "torchvision_dense")} | {s: (s,) for s in SUITES[1:]}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--suite", choices=[*CHOICES, "all"], default="all", help="which networks")
    parser.add_argument("--families", default="", help="names of family files, separated by commas; all without it")
    parser.add_argument("--peer", action="store_true", help="ask the same of Torch-Pruning 1.6.1")
    parser.add_argument("--results", type=Path, default=Path("outputs/coverage.jsonl"), help="what is done already")
    parser.add_argument("--again", action="store_true", help="forget what is done already for these families")
    parser.add_argument("--table", type=Path, help="write the table of all results there, such as docs/coverage.md")
    parser.add_argument("--timeout", type=int, default=300, help="seconds of processor time per network")
    parser.add_argument("--memory-gib", type=float, default=8, help="memory per network")
    return parser.parse_args(words)


def chosen_families(wanted: str, suite: str = "all") -> dict[Key, list[str]]:
    """Families of the command line; ``library/name`` where several libraries have one of that name."""
    libraries = {library for name, found in CHOICES.items() if suite in (name, "all") for library in found}
    known = {key: names for key, names in families().items() if key[0] in libraries}
    for library in (library for library in SUITES if library in libraries):
        known |= {(library, name): [name] for name in builders(library)}
    if not wanted:
        return known
    names = [name.strip() for name in wanted.split(",")]
    unknown = [n for n in names if not any(n in (family, f"{library}/{family}") for library, family in known)]
    if unknown:
        sys.exit(f"error: --families: {', '.join(unknown)} is no family of suite {suite}")
    return {key: found for key, found in known.items() if key[1] in names or "/".join(key) in names}


class TooSlowError(BaseException):
    """The processor time of a network is spent; not an Exception, so that nobody takes it for a network's own."""


def _out_of_time(signal_number: int, frame: object) -> None:
    raise TooSlowError


def _limited(options: argparse.Namespace) -> None:
    """Limits of this process. Processor time, not time on the clock: what else runs here must not count."""
    limit = int(options.memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    signal.signal(signal.SIGXCPU, _out_of_time)
    resource.setrlimit(resource.RLIMIT_CPU, (options.timeout, options.timeout + 60))


def _work(
    job: Callable[[Network], dict[str, Any]], key: Key, names: list[str], options: argparse.Namespace, end: Connection
) -> None:
    _limited(options)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    memory_gib = options.memory_gib
    try:
        end.send(job(Network(*key, key[1]) if key[0] in SUITES else smallest_variant(*key, names)))
    except TooSlowError:
        end.send({"status": "refused", "reason": f"took more than {options.timeout} s of processor time"})
    except MemoryError:
        end.send({"status": "refused", "reason": f"takes more than {memory_gib:g} GiB"})
    except Exception as error:  # the table says it, and the run goes on
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        out_of_memory = "can't allocate memory" in str(error) or "not enough memory" in str(error)
        end.send(
            {"status": "refused", "reason": f"takes more than {memory_gib:g} GiB"}
            if out_of_memory
            else {"status": "wrong", "reason": f"unexpected {text}"}
        )


def in_own_process(
    job: Callable[[Network], dict[str, Any]], key: Key, names: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """What the job found, or why it did not end."""
    fork = multiprocessing.get_context("fork")  # what is imported here need not be imported a hundred times
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_work, args=(job, key, names, options, there))
    started = time.perf_counter()
    process.start()
    there.close()
    found: dict[str, Any] = {}
    try:
        found = here.recv()
    except EOFError:
        found = {"status": "refused", "reason": f"the process died (memory limit {options.memory_gib:g} GiB)"}
    process.kill()
    process.join()
    names_of_key = {"library": key[0], "family": key[1], "total_s": round(time.perf_counter() - started, 1)}
    return names_of_key | found


def load_results(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(subject, library, family) -> the last result of each."""
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["subject"], line["library"], line["family"]): line for line in lines}


def _job(
    is_peer: bool, ours: dict[str, Any], names: list[str]
) -> tuple[Callable[[Network], dict[str, Any]], list[str]]:
    """What is asked of which variants: the peer gets the variant and the size that ours had, where it had one."""
    if not is_peer:
        return examine, names
    return partial(examine_peer, at_least=ours.get("size", 0)), [ours["variant"]] if "variant" in ours else names


def main() -> None:
    options = options_of()
    warnings.simplefilter("ignore")
    wanted, subject = chosen_families(options.families, options.suite), "peer" if options.peer else "snp"
    done = {} if options.again else load_results(options.results)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    # Imports that the first export does are done once, before processes are forked.
    torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), strict=False)
    known = load_results(options.results)
    for number, (key, names) in enumerate(wanted.items(), start=1):
        if (subject, *key) not in done:
            job, names = _job(options.peer, known.get(("snp", *key), {}), names)
            found = {"subject": subject} | in_own_process(job, key, names, options)
            with options.results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            line = f"{found.get('variant', '')} {found['status']} {found['reason']}"
            print(f"{number}/{len(wanted)} {'/'.join(key)} {line[:200]} ({found['total_s']} s)", flush=True)
    results = load_results(options.results)
    if options.table is not None:
        write_table(results, options.table)
    print_provenance()
    print(last_line([results[(subject, *key)] for key in wanted]))


if __name__ == "__main__":
    main()
