"""What does the ZCA order cost in wide layers, where does that go, and what is cheaper?

CPU seconds of one thread, so that other programs on the machine hardly count. Gram matrices of ReLU activations of
correlated features, with four times as many samples as units, and with fewer samples than units (rank below).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from cost_networks import seconds_of
from harness import print_provenance, print_table
from torch import Tensor

from snp.core.elimination import eliminate
from snp.core.reconstruct import transfer
from snp.core.spectrum import low_rank_factor, spectrum
from snp.core.statistics import ReaderStatistics
from snp.core.subspace import ldl


def activations(num_samples: int, num_units: int, seed: int = 0) -> Tensor:
    """Float64 [N, C]."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_samples, num_units, generator=generator, dtype=torch.float64)
    features = features * torch.logspace(0, -2, num_units, dtype=torch.float64)
    mixing = torch.randn(num_units, num_units, generator=generator, dtype=torch.float64) / num_units**0.5
    return (features @ mixing).relu()


def newton_schulz(gram_CC: Tensor, tolerance: float = 1e-6, most: int = 100) -> tuple[Tensor, int]:
    """The inverse root by coupled Newton-Schulz iteration (three products a step), and the number of steps."""
    eye = torch.eye(len(gram_CC), dtype=gram_CC.dtype)
    scale = torch.linalg.matrix_norm(gram_CC)
    root, inverse = gram_CC / scale, eye
    for step in range(1, most + 1):
        product = inverse @ root
        if float((eye - product).abs().max()) < tolerance:
            return inverse / scale.sqrt(), step
        half = 1.5 * eye - 0.5 * product
        root, inverse = root @ half, half @ inverse
    return inverse / scale.sqrt(), most


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def row_of(num_units: int, samples_per_unit: float) -> list[str]:
    """Stages of one layer's plan and fit."""
    samples = activations(int(num_units * samples_per_unit), num_units)
    kept = torch.arange(0, num_units, 2)
    product = seconds(lambda: samples.T @ samples)
    gram = samples.T @ samples
    factor = low_rank_factor(gram, num_units * 5 // 8)
    measured = [
        product,
        seconds(lambda: torch.linalg.eigh(gram)),
        seconds(lambda: spectrum(gram)),
        seconds(lambda: ldl(gram)),
        seconds(lambda: transfer(gram, kept)),
    ]
    rank = "full" if factor is None else str(factor.shape[1])
    row = [f"{num_units:,}", f"{samples_per_unit:g}", rank, *(f"{value:.2f}" for value in measured)]
    print(*row, sep="  ", flush=True)
    return row


def iteration_rows(num_units: int) -> list[list[str]]:
    """Eigendecomposition against Newton-Schulz, at two conditions."""
    rows = []
    samples = activations(4 * num_units, num_units)
    for name, ridge in (("as it is", 0.0), ("with a ridge of 1e-4", 1e-4)):
        gram = samples.T @ samples
        gram = gram + ridge * gram.diagonal().mean() * torch.eye(num_units, dtype=gram.dtype)
        values, vectors = torch.linalg.eigh(gram)
        wanted = (vectors * values.rsqrt()) @ vectors.T
        found, steps = newton_schulz(gram)
        error = float((found - wanted).abs().max() / wanted.abs().max())
        costs = [seconds(lambda gram=gram: torch.linalg.eigh(gram)), seconds(lambda gram=gram: newton_schulz(gram))]
        condition = float(values[-1] / values[0])
        rows.append([name, f"{condition:.1e}", *(f"{cost:.2f}" for cost in costs), str(steps), f"{error:.0e}"])
    return rows


def greedy_row(num_units: int, columns: int, device: str) -> list[str]:
    """Greedy elimination of all units by what a reader with as many outputs as columns, or a quarter, misses."""
    width = num_units * columns
    samples = activations(2 * width, width)
    gram, costs, same = samples.T @ samples, [], []
    for num_outputs in (width, width // 4):
        weight = torch.randn(num_outputs, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        reader = ReaderStatistics(gram.to(device), weight.to(device), columns)
        costs.append(min(seconds_of(lambda reader=reader: eliminate([reader]), device) for _ in range(2)))
        if device != "cpu":
            order, in_main_memory = (
                eliminate([reader])[0].cpu(),
                eliminate([ReaderStatistics(gram, weight, columns)])[0],
            )
            same.append(f"{(order == in_main_memory).double().mean():.0%}")
    return [f"{num_units:,} x {columns}", *(f"{cost:.2f}" for cost in costs), ", ".join(same)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 2048, 4096], help="units of the layer")
    parser.add_argument("--samples", type=float, nargs="+", default=[4, 0.5, 0.25], help="samples per unit")
    parser.add_argument("--iterate", type=int, default=1024, help="units where Newton-Schulz is tried; 0 for none")
    parser.add_argument("--greedy", type=int, nargs="*", default=[], help="units of layers ordered by the output")
    parser.add_argument("--columns", type=int, nargs="+", default=[1], help="of a unit, in the greedy order")
    parser.add_argument("--device", default="cpu", help="of the greedy order")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row_of(size, samples) for size in options.sizes for samples in options.samples]
    if rows:
        print("CPU seconds of one layer, half of the units kept")
        header = ["units", "samples per unit", "rank", "Gram", "eigh", "spectrum", "LDL", "fit"]
        print_table(header, rows)
    if options.greedy:
        clock = "CPU seconds" if options.device == "cpu" else f"seconds on {torch.cuda.get_device_name()}"
        print(f"\nGreedy order by the output, {clock}")
        rows = [greedy_row(size, columns, options.device) for columns in options.columns for size in options.greedy]
        print_table(["units x columns", "outputs as many", "a quarter", "places as in main memory"], rows)
    if options.iterate:
        print(f"\nInverse root of a Gram matrix of {options.iterate:,} units, CPU seconds")
        header = ["matrix", "condition", "eigh", "Newton-Schulz", "steps", "difference"]
        print_table(header, iteration_rows(options.iterate))
    print_provenance()


if __name__ == "__main__":
    main()
