"""How long does the whole job take on large language models, and how much memory, streamed and at once?

Weights and tokens are random, float32: time and memory are those of the real thing, perplexity would say nothing.
Feed-forward units; each job in a process of its own, whose peak holds Python and its libraries, the weights, and all
that is computed. Streamed, moments lie on disk in between. With --growth nothing is run: the memory of the fit in
sequence is counted from the programs of networks without weights, as the library counts it when it plans its work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from harness import in_own_process, print_provenance, print_table
from torch import Tensor

import snp
from snp.fit.recomputed import RecomputedNetworks
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.models import huggingface

OPT: dict[str, Any] = {"model_type": "opt", "vocab_size": 50272, "max_position_embeddings": 2048}
LLAMA: dict[str, Any] = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
CONFIGS: dict[str, dict[str, Any]] = {
    "opt-125m": OPT | {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "opt-350m": OPT
    | {
        "hidden_size": 1024,
        "ffn_dim": 4096,
        "word_embed_proj_dim": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "do_layer_norm_before": False,
    },
    "opt-1.3b": OPT | {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32},
    "llama-30m": LLAMA
    | {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    },
    "smollm2-135m": LLAMA
    | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "llama-7b": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-70b": LLAMA
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
RUN = ("opt-125m", "opt-350m", "opt-1.3b", "llama-30m")
FORMS: dict[str, dict[str, Any]] = {
    "paper": {"calibration": "joint", "ordering": "zca", "cut": "variance"},
    "sequential": {"ordering": "zca", "cut": "variance"},
    "defaults": {"trials": False},
}
GIB = 2**30


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """Of OPT the width of the embeddings is that of the stream unless it says otherwise."""
    config = CONFIGS[name] | changes
    is_opt = config["model_type"] == "opt"
    return {"word_embed_proj_dim": config["hidden_size"], **config} if is_opt else config


def tokens(name: str, windows: int, context: int) -> list[Tensor]:
    """Batches of one window each."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(4, CONFIGS[name]["vocab_size"], (windows, context), generator=generator).split(1))


def job(name: str, streamed: bool, sizes: tuple[int, int], options: dict[str, Any], folder: str) -> dict[str, Any]:
    """The whole job, from the dense network in memory to the small one on disk."""
    torch.manual_seed(0)
    model = huggingface.build(config=config_of(name)).eval()
    batches = tokens(name, *sizes)
    with torch.no_grad():
        started = time.process_time()
        for batch in batches:
            model(batch, use_cache=False)
        forward = time.process_time() - started
    started, cpu_started = time.perf_counter(), time.process_time()
    result = (prune_streamed if streamed else snp.prune)(model, batches, **options)
    snp.save(result, folder)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "forward": forward,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "check": result.check,
        "shares": {stage: spent.processor_seconds / forward for stage, spent in result.times.items()},
    }


def growth(names: Sequence[str], windows: int, context: int) -> None:
    """What the fit in sequence holds, from programs of two blocks without weights: it does not depend on the depth."""
    rows = []
    for name in names:
        with torch.device("meta"):
            model = huggingface.build(config=config_of(name, num_hidden_layers=2)).eval()
            batch = Batch((torch.zeros(2, context, dtype=torch.int64),)).beside(model)
        params = {layers: num_params(config_of(name, num_hidden_layers=layers)) for layers in (1, 2)}
        depth = CONFIGS[name]["num_hidden_layers"]
        weights = 4 * (params[1] + (depth - 1) * (params[2] - params[1]))
        layers = next(key for key, module in model.named_modules() if isinstance(module, torch.nn.ModuleList))
        blocks = [f"{layers}.0", f"{layers}.1"]
        networks = RecomputedNetworks(model, [batch], lambda *_: None, blocks=blocks)
        whole = TwoNetworks(model, [batch], lambda *_: None)
        to_the_logits = whole.bytes_per_batch / 2
        for each in (networks, whole):  # as a fit ends: logits are behind the last layer that is fitted
            of_blocks = [node for node in each.graph.nodes if (each.name_of(node) or "").startswith(layers)]
            each.end = max((user for node in of_blocks for user in node.users), key=list(each.graph.nodes).index)
        per_window = [to_the_logits, *(each.bytes_per_batch / 2 for each in (whole, networks))]
        block = 100 * GIB / networks.fitting_size(100 * GIB)
        width = CONFIGS[name].get("ffn_dim") or CONFIGS[name]["intermediate_size"]
        fisher = depth * CONFIGS[name]["hidden_size"] ** 2
        held = [weights, *(windows * each for each in per_window), block, 8 * width**2, 8 * fisher]
        rows.append([name, *(f"{each / GIB:.2f}" for each in held)])
    print(f"{windows} windows of {context} tokens, float32, GiB")
    values = ["to the logits", "all values at once", "hidden states", "a block of a window"]
    header = ["model", "weights", *values, "Gram matrix", "Fisher"]
    print_table(header, rows)
    print_provenance()


def num_params(config: dict[str, Any]) -> int:
    """Parameters, tied ones once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in huggingface.build(config=config).parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=RUN, default=list(RUN))
    parser.add_argument("--ways", nargs="+", choices=("streamed", "at once"), default=["streamed", "at once"])
    parser.add_argument("--form", choices=FORMS, default="paper", help="how units are chosen and weights fitted")
    parser.add_argument("--memory", type=float, default=8.0, help="prune.memory_gib")
    parser.add_argument("--growth", nargs="+", choices=CONFIGS, help="count the memory of these, and run nothing")
    parser.add_argument("--windows", type=int, default=16, help="calibration windows")
    parser.add_argument("--context", type=int, default=256, help="tokens per window")
    parser.add_argument("--left", type=float, default=0.7, help="share of the parameters outside embeddings")
    parser.add_argument("--folder", default=None, help="where moments and networks lie for a while")
    options = parser.parse_args()
    if options.growth:
        growth(options.growth, options.windows, options.context)
        return
    if options.folder:
        os.environ["TMPDIR"] = options.folder
    rows = []
    for name in options.models:
        for way in options.ways:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                sizes, asked = (
                    (options.windows, options.context),
                    {**FORMS[options.form], "target_params": options.left},
                )
                asked["memory_gib"] = options.memory
                found, peak = in_own_process(job, name, way == "streamed", sizes, asked, folder)
            weights = f"{4 * found['params'] / 2**30:.2f}"
            times = [f"{found[key]:.0f}" for key in ("forward", "seconds", "cpu_seconds")]
            rows.append([name, way, weights, *times, f"{peak / 2**10:.2f}", f"{found['check']:.0e}"])
            print(*rows[-1], sep="  ", flush=True)
            print("  in passes:", *(f"{stage} {share:.1f}" for stage, share in found["shares"].items()), flush=True)
    left = f"{options.left:.0%} of the parameters left"
    print(f"\n{options.windows} windows of {options.context} tokens, form {options.form}, {left}")
    print_table(["model", "calibrated", "weights GiB", "a pass, CPU s", "s", "CPU s", "peak GiB", "self-check"], rows)
    print_provenance()


if __name__ == "__main__":
    main()
