"""What does a whole prune cost, in forward passes of its calibration samples, and which stage takes how much?

    python benchmarks/job_cost.py --model resnet18 --preset best
    python benchmarks/job_cost.py --model vgg16 --preset best --samples 8 --size 224 --batch 8

One thread, processor time on a CPU. What a process loads once before its first prune (``torch.export``, options of
installed packages: about half a second) is loaded before the clock starts. The last word of the last line is the ratio.
"""

from __future__ import annotations

import resource
import statistics

import torch
from cost_networks import arguments_of, seconds_of, subject_of
from harness import print_provenance, print_table

import snp


def main() -> None:
    """Prune once, between forward passes."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--preset", default="best", choices=("paper", "quick", "best"))
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs, or of a language model's weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = "target_params" if options.model.startswith(("smollm", "llama")) else "target_macs"
    subject = subject_of(options)
    example = torch.ones(1, 2, device=options.device)
    torch.export.export(torch.nn.Linear(2, 2).to(options.device), (example,), strict=False)
    settings = snp.PruneSettings(preset=options.preset, **{budget: options.target})
    subject.forward()
    passes = [seconds_of(subject.forward, options.device) for _ in range(3)]
    results = []

    def prune() -> None:
        results.append(snp.prune(subject.model, subject.batches, settings, progress=False))

    whole = seconds_of(prune, options.device)
    passes += [seconds_of(subject.forward, options.device) for _ in range(3)]
    one = statistics.median(passes)
    on_cpu = options.device == "cpu"
    spent = {n: t.processor_seconds if on_cpu else t.seconds for n, t in results[0].times.items()}
    print(f"{subject.words}, preset {options.preset}: a forward pass of all samples takes {one:.3f} s")
    rows = [[name, f"{took:.2f}", f"{took / one:.1f}", f"{took / whole:.0%}"] for name, took in spent.items()]
    print_table(
        ["stage", "seconds", "forward passes", "share"], [*rows, ["all", f"{whole:.2f}", f"{whole / one:.1f}", "100%"]]
    )
    print(f"largest memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print_provenance()
    print(f"whole job / forward pass: {whole / one:.1f}")


if __name__ == "__main__":
    main()
