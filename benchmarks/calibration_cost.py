"""What does calibration cost beside a plain forward pass of the same samples?

    python benchmarks/calibration_cost.py --model resnet50 --size 224 --samples 32 --form paper

In turns, one thread, processor time on a CPU. ``--form paper`` measures channels, ``defaults`` what kernels see. The
last word of the last line is the median ratio.
"""

from __future__ import annotations

import statistics

import torch
from cost_networks import Subject, arguments_of, seconds_of, subject_of
from harness import print_provenance, print_table

from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of as analysed

FORMS = {"paper": {"calibration": "joint", "conv_gram": "channel"}, "defaults": {}}


def calibrate(subject: Subject, readers: dict, products: torch.dtype) -> None:
    """Moments of all samples."""
    with torch.no_grad(), MomentCollector(subject.model, readers, products) as collector:
        for batch in subject.batches:
            collector.measure(Batch.of(batch))
        assert collector.moments


def main() -> None:
    """Both in turns."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--form", default="paper", choices=tuple(FORMS))
    parser.add_argument("--products", default="float64", choices=("float64", "float32"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = subject_of(options)
    settings = PruneSettings(**FORMS[options.form])
    readers = dict(analysed(subject.model, Batch.of(subject.batches[0]).first(2), settings).readers)
    products = getattr(torch, options.products)
    works = (subject.forward, lambda: calibrate(subject, readers, products))
    for work in works:
        work()
    rounds = [[seconds_of(work, options.device) for work in works] for _ in range(options.rounds)]
    forward, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{subject.words}, {len(readers)} readers, {options.form} form, products in {options.products}")
    rows = [["forward pass", f"{forward:.3f}", "1.00"], ["calibration", f"{whole:.3f}", f"{whole / forward:.2f}"]]
    rows.append(["of it moments", f"{whole - forward:.3f}", f"{whole / forward - 1:.2f}"])
    print_table(["stage", "seconds", "forward passes"], rows)
    print_provenance()
    print(f"calibration / forward pass: {statistics.median(b / a for a, b in rounds):.2f}")


if __name__ == "__main__":
    main()
