"""Which networks are costs measured on, and what is one forward pass?  Random weights, random images or tokens."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Subject", "arguments_of", "seconds_of", "subject_of"]

# Sizes of language models that are made here, so that nothing is downloaded.
_LANGUAGE: dict[str, dict[str, int]] = {
    "smollm2_135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152,
    },
    "llama_tiny": {
        "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and its calibration batches, on one device."""

    model: nn.Module
    batches: list[Any]
    words: str

    def forward(self) -> None:
        """One forward pass of all calibration samples."""
        with torch.no_grad():
            for batch in self.batches:
                self.model(**batch) if isinstance(batch, dict) else self.model(batch)


def arguments_of(question: str) -> argparse.ArgumentParser:
    """A parser that knows the network and its samples."""
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="resnet18", help=f"of torchvision or timm, or {', '.join(_LANGUAGE)}")
    parser.add_argument("--samples", type=int, default=64, help="calibration samples")
    parser.add_argument("--size", type=int, help="pixels of an image's side, or tokens of a window; 64 where not given")
    parser.add_argument("--batch", type=int, default=16, help="samples per batch")
    parser.add_argument("--device", default="cpu")
    return parser


def subject_of(options: argparse.Namespace) -> Subject:
    """The network that the command line names, with seed 0."""
    torch.manual_seed(0)
    size = options.size or 64
    words = f"{options.model}, {options.samples} samples of {size}, on {options.device}"
    if options.model in _LANGUAGE:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(**_LANGUAGE[options.model], max_position_embeddings=size, tie_word_embeddings=True)
        model: nn.Module = LlamaForCausalLM(config)
        tokens = torch.randint(config.vocab_size, (options.samples, size))
        batches: list[Any] = [{"input_ids": part, "use_cache": False} for part in tokens.split(options.batch)]
    else:
        model = _vision(options.model, size)
        batches = list(torch.randn(options.samples, 3, size, size).split(options.batch))
    move = (
        (lambda b: {k: v.to(options.device) if torch.is_tensor(v) else v for k, v in b.items()})
        if isinstance(batches[0], dict)
        else (lambda b: b.to(options.device))
    )
    return Subject(model.eval().to(options.device), [move(batch) for batch in batches], words)


def _vision(name: str, size: int) -> nn.Module:
    import timm
    import torchvision

    if name in torchvision.models.list_models():
        extra = {"image_size": size} if name.startswith("vit") else {}
        model: nn.Module = torchvision.models.get_model(name, **extra)
    else:
        model = timm.create_model(name, **({"img_size": size} if any(w in name for w in ("vit", "deit")) else {}))
    for parameter in model.parameters():
        if not parameter.any():  # norms that start at zero would hide their blocks
            nn.init.normal_(parameter, std=0.1)
    return model


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Processor seconds of one call, so that other programs hardly count; on a GPU seconds until it is done."""
    if device == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started
