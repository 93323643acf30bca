"""What does every step of the method bring, and how do other methods do on the same images at the same MACs?

Accuracy without fine-tuning over a ladder of rungs, orderings, cuts and peers, for several calibration seeds, and the
first three experiments of the paper's summary. Every finished cell is a line of ``--results``: a killed run goes on
where it was, and parts may run in separate processes. ``--print`` shows what is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from harness import arguments_of, existing, in_memory, print_provenance
from ladder import cost, vgg_layer
from ladder.cells import measure
from ladder.networks import NETWORKS, load
from ladder.results import Results
from ladder.rungs import PARTS
from ladder.tables import about, markdown, table_of

MAIN_NETWORKS = ("resnet56", "efficientnet_lite0", "vit")
ALL_PARTS = (*PARTS, "cost")
_COST_SAMPLES, _COST_REPEATS = 256, 3


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=MAIN_NETWORKS, default=list(MAIN_NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the calibration images")
    parser.add_argument("--parts", nargs="+", choices=ALL_PARTS, default=list(ALL_PARTS))
    parser.add_argument(
        "--fits",
        nargs="+",
        choices=("joint", "sequential"),
        default=["joint", "sequential"],
        help="which cells to measure",
    )
    parser.add_argument("--results", type=Path, help="JSON-lines file of finished cells; nothing is kept without it")
    parser.add_argument("--cache", type=Path, help="folder for networks that are trained here")
    parser.add_argument("--print", action="store_true", help="measure nothing, show what is there")
    return parser.parse_args(words)


def _networks(part: str, options: argparse.Namespace) -> list[str]:
    """Networks of a part: those asked for, and the paper's own."""
    named = {network for table in PARTS[part] for network in table.networks}
    return [name for name in NETWORKS if name in named and (name in options.networks or name not in MAIN_NETWORKS)]


def run(options: argparse.Namespace, results: Results) -> None:
    """Measure everything that is asked for and not there yet, network by network."""
    data = existing(options.data, "--data")
    parts = [part for part in options.parts if part in PARTS]
    names = dict.fromkeys(name for part in parts for name in _networks(part, options))
    for name in names:
        tables = [table for part in parts for table in PARTS[part]]
        network, started = load(name, data, options.cache), time.perf_counter()
        for cell, values in measure(name, network, tables, options.seeds, options.fits, results):
            found = values.get("not_possible") or f"{values['acc1_percent']:.2f} % at {values['macs_share']:.4f}"
            passed = time.perf_counter() - started
            print(f"[{passed:5.0f} s] {name}, {cell.rung.name.strip()}, seed {cell.seed}: {found}", flush=True)
    if "paper" in options.parts:
        vgg_layer.run(options.cache, options.seeds, results)
    if "cost" in options.parts:
        for name in options.networks:
            cost.run(name, lambda name=name: _cost_inputs(name, options, data), _COST_SAMPLES, _COST_REPEATS, results)


def _cost_inputs(name: str, options: argparse.Namespace, data: Path) -> tuple:
    network = load(name, data, options.cache)
    batches, count = [], 0
    for images, labels in in_memory(network.calibration(0)):
        if count < _COST_SAMPLES:
            batches.append((images[: _COST_SAMPLES - count], labels[: _COST_SAMPLES - count]))
            count += len(batches[-1][1])
    return network.model, batches


def show(options: argparse.Namespace, results: Results) -> None:
    """All tables that have a finished cell."""
    for part in options.parts:
        for table in PARTS.get(part, ()):
            for name in _networks(part, options):
                text = table_of(table, name, options.seeds, results) if name in table.networks else ""
                if text.count("\n") > 1:  # more than the header
                    print(f"\n**{table.title}.** {about(name)}\n\n{text}")
    rows = vgg_layer.rows_of(results, options.seeds)
    if "paper" in options.parts and rows:
        print("\n**The paper's first experiment: a layer of VGG-16 with BatchNorm, trained on digits.** Relative error")
        print("of the outputs of the second convolution on 256 channels, test images, order zca\n")
        print(markdown(["units pruned", *(f"{share:.0%}" for share in vgg_layer.SHARES)], rows))
    rows = []
    if "cost" in options.parts:
        rows = [r for name in options.networks for r in cost.rows_of(name, _COST_SAMPLES, _COST_REPEATS, results)]
    if rows:
        print(f"\n**Cost of fitting in sequence**, {_COST_SAMPLES} calibration images, in plain passes over them\n")
        print(markdown(["from images to a small network", "joint", "sequential", "sequential / joint"], rows))
    print("\nspread: mean (smallest to largest) over seeds; cost: median (smallest to largest) of repeats in turns")
    print_provenance()
    print(f"cells:    measured with library sources {', '.join(sorted(results.codes))}")


def main() -> None:
    options = options_of()
    try:
        results = Results(options.results)
    except ValueError as error:
        sys.exit(f"error: --results {error}")
    if not options.print:
        run(options, results)
    show(options, results)


if __name__ == "__main__":
    main()
