"""How much faster is a network with half of its multiply-accumulates, by the clock?

Random weights and images of 224 x 224 pixels: the time of a pass depends on sizes, not on values. Every group keeps the
same share of its units, which needs no calibration; ``--own`` lets the library's default cut choose. Dense and pruned
networks are timed in turns. Where nothing else is named the networks run as they are; ``folded`` has BatchNorm folded
into convolutions and the channels-last memory format, as for deployment. ``--round-to auto`` asks this device in this
precision which multiples pay. On a GPU that would wait for launches, or with ``--graphs``, passes are CUDA graphs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import timm
import torch
from harness import print_provenance, print_table
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import snp
from snp.speed.passes import Passes, passes_in_turns

NETWORKS: dict[str, dict[str, Any]] = {
    # As timm initialises it, the last norm of every block is zero.
    "resnet50": {"zero_init_last": False},
    "deit_small_patch16_224": {},
}
STRUCTURES = {"resnet50": ("ffn",), "deit_small_patch16_224": ("ffn", "vo", "qk")}
EQUAL = {"planner": "magnitude", "reconstruct": False, "calibration": "joint"}


def pruned(name: str, dense: nn.Module, images: Tensor, options: argparse.Namespace, round_to: int | str) -> Any:
    """The pruned network and its plan; in half precision the multiples of that are asked for."""
    target = {f"target_{options.target}": options.share}
    settings = {} if options.own else EQUAL
    timed = {"latency_batch": options.batch_size, "latency_threads": options.threads}
    chosen = {"structures": STRUCTURES[name], "streams": options.streams, "round_to": round_to, "progress": False}
    is_half = options.precision != "float32"
    with torch.autocast(torch.device(options.device).type, getattr(torch, options.precision), enabled=is_half):
        return snp.prune(dense, [images], **chosen, **target, **settings, **timed)


def folded(model: nn.Module) -> nn.Module:
    """BatchNorm of timm's ResNets folded into the convolutions before it, channels last."""
    small = copy.deepcopy(model)
    for module in list(small.modules()):
        children = list(module.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, nn.Identity())
    small = small.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(2, 3, 64, 64, device=next(model.parameters()).device).double()
    with torch.no_grad():  # GPUs round products of single precision
        folded_outputs, outputs = (copy.deepcopy(one).double()(images) for one in (small, model))
    torch.testing.assert_close(folded_outputs, outputs, rtol=1e-4, atol=1e-4)
    return small


def timed(models: dict[str, nn.Module], images: Tensor, options: argparse.Namespace) -> Passes:
    """Passes of all networks in turns."""
    calls: dict[str, Callable[[], object]] = {name: partial(model, images) for name, model in models.items()}
    turns = {"num_threads": options.threads, "min_rounds": options.rounds, "min_seconds": 0.0}
    return passes_in_turns(calls, device=options.device, graphs=options.graphs or None, **turns)


def ratio(dense: list[float], small: list[float]) -> str:
    """Median of the ratios of neighbouring passes, and their quartiles."""
    found = [slow / fast for slow, fast in zip(dense, small, strict=True)]
    low, median, high = statistics.quantiles(found, n=4)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def rows_of(name: str, options: argparse.Namespace) -> list[list[str]]:
    """Table rows of one network."""
    torch.manual_seed(0)
    dense = timm.create_model(name, **NETWORKS[name]).eval().to(options.device)
    images = torch.randn(options.batch_size, 3, 224, 224).to(options.device)
    results = {round_to: pruned(name, dense, images, options, round_to) for round_to in options.round_to}
    models = {"dense": dense} | {str(round_to): result.model.eval() for round_to, result in results.items()}
    forms = {"as it is": (models, images)}
    if "resnet" in name:
        last = images.to(memory_format=torch.channels_last)
        forms["folded"] = ({key: folded(model) for key, model in models.items()}, last)
    rows = []
    precision = getattr(torch, options.precision)
    for form, (networks, inputs) in forms.items():
        cast = {key: copy.deepcopy(model).to(precision) for key, model in networks.items()}
        passes = timed(cast, inputs.to(precision), options)
        way = f"{form}, CUDA graphs" if passes.graphs else form
        for round_to, result in results.items():
            small, whole = passes.times[str(round_to)], passes.times["dense"]
            macs = result.plan.macs["pruned"] / result.plan.macs["dense"]
            line = [f"{name}, {way}, {rounding_of(round_to, result.plan.settings)}", f"{macs:.3f}"]
            line += [f"{1e3 * statistics.median(times.wall):.3g}" for times in (whole, small)]
            rows.append([*line, ratio(whole.wall, small.wall), ratio(whole.own, small.own), f"{passes.idle:.2f}"])
    return rows


def rounding_of(round_to: int | str, settings: Mapping[str, Any]) -> str:
    """The option, and what it was found to be."""
    if round_to != "auto":
        return f"round_to={round_to}"
    wide = f", round_from={settings['round_from']}" if settings["round_from"] else ""
    return f"round_to=auto: {settings['round_to']}{wide}"


def multiple_of(word: str) -> int | str:
    """What `--round-to` may be."""
    return word if word == "auto" else int(word)


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--target", choices=("macs", "latency"), default="macs", help="the budget")
    parser.add_argument("--share", type=float, default=0.5, help="of the dense network that is left")
    parser.add_argument("--own", action="store_true", help="the library's default cut instead of equal shares")
    parser.add_argument(
        "--round-to",
        type=multiple_of,
        nargs="+",
        default=[8],
        help="units are multiples of this; auto: of what pays here",
    )
    parser.add_argument("--streams", action="store_true", help="cut residual streams, too")
    parser.add_argument("--graphs", action="store_true", help="replay passes as CUDA graphs in any case")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=11, help="passes of each network")
    options = parser.parse_args(words)
    if options.graphs and "cuda" not in options.device:
        parser.error("--graphs: CUDA graphs need --device cuda")
    return options


def main() -> None:
    """Print the table."""
    options = options_of()
    header = ["network", "MACs left", "dense ms", "pruned ms", "speed-up", "speed-up, processor time", "GPU idle"]
    print_table(header, [row for name in options.models for row in rows_of(name, options)])
    machine = torch.cuda.get_device_name() if "cuda" in options.device else f"CPU threads: {options.threads}"
    print(
        f"batches of {options.batch_size} images of 224 x 224 pixels in {options.precision}, "
        f"{machine}; medians and, in "
        f"brackets, quartiles of the ratios of neighbouring passes, {options.rounds} each, in turns"
    )
    print_provenance()


if __name__ == "__main__":
    main()
