"""How long does the whole job take on OPT of full size, and how much memory, streamed and at once?

Weights and tokens are random, float32: time and memory are those of the real thing, perplexity would say nothing. The
paper's form (ZCA order, variance cut, joint fit) on feed-forward units; each job in a process of its own, whose peak
holds Python and its libraries, the weights, and all that is computed. Streamed, moments lie on disk in between.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import torch
from harness import in_own_process, print_provenance, print_table
from torch import Tensor

import snp
from snp.library import prune_streamed
from snp.models import huggingface

COMMON: dict[str, Any] = {"model_type": "opt", "vocab_size": 50272, "max_position_embeddings": 2048}
CONFIGS: dict[str, dict[str, Any]] = {
    "opt-125m": {"hidden_size": 768, "word_embed_proj_dim": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "opt-350m": {
        "hidden_size": 1024,
        "word_embed_proj_dim": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "do_layer_norm_before": False,
    },
    "opt-1.3b": {"hidden_size": 2048, "word_embed_proj_dim": 2048, "num_hidden_layers": 24, "num_attention_heads": 32},
}
SETTINGS: dict[str, Any] = {"calibration": "joint", "ordering": "zca", "cut": "variance"}


def tokens(windows: int, context: int) -> list[Tensor]:
    """Batches of one window each."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(4, COMMON["vocab_size"], (windows, context), generator=generator).split(1))


def job(name: str, streamed: bool, windows: int, context: int, left: float, folder: str) -> dict[str, float]:
    """The whole job, from the dense network in memory to the small one on disk."""
    torch.manual_seed(0)
    config = {**COMMON, **CONFIGS[name], "ffn_dim": 4 * CONFIGS[name]["hidden_size"]}
    model = huggingface.build(config=config).eval()
    started, cpu_started = time.perf_counter(), time.process_time()
    prune = prune_streamed if streamed else snp.prune
    result = prune(model, tokens(windows, context), target_params=left, **SETTINGS)
    snp.save(result, folder)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "check": result.check,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--ways", nargs="+", choices=("streamed", "at once"), default=["streamed", "at once"])
    parser.add_argument("--windows", type=int, default=16, help="calibration windows")
    parser.add_argument("--context", type=int, default=256, help="tokens per window")
    parser.add_argument("--left", type=float, default=0.7, help="share of the parameters outside embeddings")
    parser.add_argument("--folder", default=None, help="where moments and networks lie for a while")
    options = parser.parse_args()
    if options.folder:
        os.environ["TMPDIR"] = options.folder
    rows = []
    for name in options.models:
        for way in options.ways:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                sizes = (options.windows, options.context, options.left)
                found, peak = in_own_process(job, name, way == "streamed", *sizes, folder)
            weights = f"{4 * found['params'] / 2**30:.2f}"
            times = [f"{found[key]:.0f}" for key in ("seconds", "cpu_seconds")]
            rows.append([name, way, weights, *times, f"{peak / 2**10:.2f}", f"{found['check']:.0e}"])
            print(*rows[-1], sep="  ", flush=True)
    print(f"\n{options.windows} windows of {options.context} tokens, {options.left:.0%} of the parameters left")
    print_table(["model", "calibrated", "weights GiB", "s", "CPU s", "peak GiB", "self-check"], rows)
    print_provenance()


if __name__ == "__main__":
    main()
