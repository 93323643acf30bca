"""How much of a transformer may be cut at the sizes that it is published in?  By analysis alone: nothing is computed.

The networks of ``coverage.py --suite transformers`` are tiny, so that heads over a vocabulary and attention weigh more
in them than in the networks that people have. Here each has the sizes that its configuration has by itself (Llama-7B,
BERT-base, ...), without memory for its weights, and the share of its MACs inside groups is counted, with
`prune.structures` as it comes. No trial cut is made: whether the same groups can be cut the tiny networks show.
"""

from __future__ import annotations

import argparse
import time
import warnings
from statistics import median
from typing import Any

import torch
from harness import of_extra, print_provenance
from torch import Tensor, nn

with of_extra():
    import transformers
    from coverage_suites import of_transformers as suite

from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.plain_weights import with_plain_weights
from snp.plan.costs import CostModel
from snp.plan.table import markdown_table

# The same sizes as another one, experts that take minutes, a node per token, code that needs memory.
LEFT_OUT = ("opt_post_norm", "mixtral", "qwen2_moe", "mamba", "wav2vec2")
TOKENS, PIXELS, FRAMES, SAMPLES = 128, 224, 3000, 16_000


def network_of(name: str) -> nn.Module:
    """The network of the suite with its configuration's own sizes, on the meta device."""
    auto, config, *_ = _arguments(name)
    made = transformers.AutoConfig.for_model(config["model_type"])
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, auto).from_config(made)
    return model.eval()


def inputs_of(name: str) -> dict[str, Tensor]:
    """One sample in the form that the suite gives, of usual size."""
    generator = torch.Generator().manual_seed(0)
    given, found = _arguments(name)[2](generator), {}
    for key, value in given.items():
        if key == "pixel_values":
            found[key] = torch.randn(1, 3, PIXELS, PIXELS, generator=generator)
        elif key == "input_features":
            found[key] = torch.randn(1, 80, FRAMES, generator=generator)
        elif key == "input_values":
            found[key] = torch.randn(1, SAMPLES, generator=generator)
        elif key == "attention_mask":
            found[key] = torch.ones(1, TOKENS, dtype=value.dtype)
        elif key != "labels":
            length = min(TOKENS, 64 if "pixel_values" in given else TOKENS)
            found[key] = suite.tokens(generator, length)[:1]
    if "attention_mask" in found:
        found["attention_mask"] = found["attention_mask"][:, : found["input_ids"].shape[1]]
    return found


def _arguments(name: str) -> tuple[Any, ...]:
    built: Any = suite.BUILDERS[name]
    return tuple(built.args)


def share_of(name: str) -> tuple[float, float]:
    """Share of the MACs inside groups, without and with residual streams."""
    model = with_plain_weights(network_of(name))
    graph = analyse(model, Batch.of(inputs_of(name)))
    shares = []
    for groups in (tuple(group for group in graph.groups if not group.is_stream), graph.groups):
        costs = CostModel(model, graph, groups)
        shares.append(1 - costs.macs([group.num_partitions for group in groups]) / costs.macs(costs.dense))
    return shares[0], shares[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="", help="names of the suite, separated by commas; 26 without it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows, shares = [], []
    usual = [name for name in suite.BUILDERS if name not in LEFT_OUT]
    for name in options.networks.split(",") if options.networks else usual:
        started = time.process_time()
        without, with_streams = share_of(name)
        shares.append(with_streams)
        size = sum(parameter.numel() for parameter in network_of(name).parameters()) / 1e6
        row = (name, f"{size:,.0f} M", f"{100 * without:.0f} % / {100 * with_streams:.0f} %")
        rows.append(row)
        print(*row, f"({time.process_time() - started:.0f} s)", flush=True)
    print("\n".join(markdown_table(["network", "parameters", "MACs"], rows, is_padded=False)))
    print_provenance()
    print(f"median {100 * median(shares):.0f} % of {len(shares)}")


if __name__ == "__main__":
    main()
