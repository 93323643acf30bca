"""Do Gram matrices of some tokens of every image choose and fit as well as those of all?

    python benchmarks/sampled_tokens.py --data FOLDER --deit FILE --samples 384 --seeds 0 1

DeiT-tiny on CIFAR-10 (64 tokens and the class token) in the paper's form, without training: so many tokens, spread
evenly and beginning at another one in every image, that a product costs what the layer itself does. Beside it what
another choice of calibration images does to a plan.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import torch
from harness import accuracy, arguments_of, existing, print_provenance, print_table
from known_networks import cifar10, spread_over
from safetensors.torch import load_file
from torch import Tensor, nn

import snp
from snp import models
from snp.measure.moments import MomentCollector
from snp.measure.reader import Reader
from snp.pruning import PruneResult

_ARGUMENTS = {"model_name": "deit_tiny_patch16_224", "img_size": 32, "patch_size": 4}


def some_tokens(model: nn.Module) -> object:
    """A collector of moments that looks at some tokens."""
    whole = MomentCollector._samples

    def samples(self: MomentCollector, inputs: Tensor, reader: Reader) -> Tensor:
        if not reader.reads_tokens or inputs.ndim != 3:
            return whole(self, inputs, reader)
        size, length, columns = inputs.shape
        most = max(1, length * len(model.get_parameter(reader.weight)) // columns)
        if most >= length:
            return whole(self, inputs, reader)
        spread = torch.arange(most) * length // most
        index = (spread + torch.arange(size)[:, None]) % length
        return whole(self, inputs.gather(1, index[:, :, None].expand(-1, -1, columns)), reader)

    return patch.object(MomentCollector, "_samples", samples)


def common(one: PruneResult, other: PruneResult) -> str:
    """Share of the units that both plans keep."""
    kept = [{group.group.name: set(group.kept.tolist()) for group in each.plan.groups} for each in (one, other)]
    both = sum(len(units & kept[1][name]) for name, units in kept[0].items())
    return f"{100 * both / sum(map(len, kept[0].values())):.1f} %"


def main() -> None:
    """With some tokens and with all, on the same images, and on others."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--deit", type=Path, required=True, help="weights of DeiT-tiny, safetensors")
    parser.add_argument("--samples", type=int, default=384, help="calibration images")
    parser.add_argument("--images", type=int, default=500, help="test images that are scored")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = models.build("timm", _ARGUMENTS, num_classes=10).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(existing(options.deit, "--deit")).items()})
    found: list[tuple[PruneResult, PruneResult]] = []
    rows = []
    for seed in options.seeds:
        options.seed = seed
        images, batches = cifar10(options, 32)
        test = spread_over(images, "test", options.images)
        every = snp.prune(model, batches, preset="paper", target_params=0.8, progress=False)
        with some_tokens(model):
            some = snp.prune(model, batches, preset="paper", target_params=0.8, progress=False)
        found.append((some, every))
        scores = [f"{accuracy(each.model, test):.1f}" for each in (some, every)]
        times = [f"{each.times['calibrate'].processor_seconds:.1f}" for each in (some, every)]
        rows.append([str(seed), *scores, *times, common(some, every), common(every, found[0][1])])
    print(f"DeiT-tiny, CIFAR-10, paper's form, 80 % of the parameters, {options.samples} calibration images")
    head = ["seed", "top-1, some tokens", "all", "calibrate s, some", "all", "units in common", "with the first seed's"]
    print_table(head, rows)
    print_provenance()


if __name__ == "__main__":
    main()
