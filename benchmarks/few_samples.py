"""From a few samples, how far are fitted weights from the dense network, beside plain deletion of the same units?

    python benchmarks/few_samples.py --seeds 20

Small networks of random weights on normal inputs, half of the MACs, defaults: the error beside each output's spread, on
2,048 samples drawn anew and on the calibration samples. One is what deletion does. `--noise` repeats the samples
sixteen times with so much normal noise of their spread on them.
"""

from __future__ import annotations

import statistics

import torch
from harness import arguments_of, print_provenance, print_table
from torch import Tensor, nn

import snp
from snp.surgery.surgery import masked_weights, with_weights

# Inputs, hidden units, outputs, first activation.
_NETWORKS = [(8, 16, 10, nn.ReLU), (8, 32, 10, nn.GELU), (20, 32, 10, nn.ReLU), (20, 48, 6, nn.GELU),
             (32, 32, 4, nn.ReLU), (16, 64, 1, nn.ReLU)]  # fmt: skip


def network(seed: int, inputs: int, hidden: int, outputs: int, act: type[nn.Module]) -> nn.Module:
    """Two hidden layers of random weights."""
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, hidden), act(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers).eval()


def error(dense: nn.Module, other: nn.Module, rows: Tensor, spread: Tensor) -> float:
    """Root of the mean squared error beside every output's spread."""
    with torch.no_grad():
        return float(((dense(rows) - other(rows)) / spread).square().mean().sqrt())


def ratios(seed: int, count: int, noise: float | None, calibration: str) -> list[tuple[float, float]]:
    """Of every network: on samples drawn anew, and on the calibration samples."""
    found = []
    for sizes in _NETWORKS:
        dense, generator = network(seed, *sizes), torch.Generator().manual_seed(1000 + seed)
        rows, others = (torch.randn(number, sizes[0], generator=generator) for number in (count, 2048))
        if noise is not None:
            rows = rows[torch.randperm(16 * count, generator=generator) % count]
            rows = rows + noise * torch.randn(rows.shape, generator=generator)
        result = snp.prune(dense, [rows], target_macs=0.5, progress=False, calibration=calibration)
        deleted = with_weights(dense, masked_weights(dense, result.plan))
        with torch.no_grad():
            spread = dense(others).std(dim=0)
        fitted = result.model.eval()
        found.append(tuple(error(dense, fitted, x, spread) / error(dense, deleted, x, spread) for x in (others, rows)))
    return found


def main() -> None:
    """A row for every number of samples."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--seeds", type=int, default=20, help="networks and draws of each size")
    parser.add_argument("--noise", type=float, help="of sixteen repeats of every sample, beside its spread")
    parser.add_argument("--calibration", default="sequential", choices=("sequential", "joint"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for count in options.samples:
        found = [
            pair for seed in range(options.seeds) for pair in ratios(seed, count, options.noise, options.calibration)
        ]
        words = [f"{count}"]
        for part in zip(*found, strict=True):
            worse = sum(ratio > 1.03 for ratio in part)
            words += [f"{statistics.median(part):.2f}", f"{max(part):.2f}", f"{worse} of {len(part)}"]
        rows.append(words)
    names = [f"{on}{what}" for on in ("", "calibration: ") for what in ("median", "worst", "above 1.03")]
    print_table(("samples", *names), rows)
    print_provenance()


if __name__ == "__main__":
    main()
