"""How do benchmarks come by trained networks where no weights are at hand?  A short training, kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from snp.data.base import ImageData

__all__ = ["train", "trained"]


def train(model: nn.Module, data: ImageData, *, epochs: int, learning_rate: float, seed: int) -> list[float]:
    """Train a classifier in place with AdamW and one cycle of the learning rate; evaluation mode afterwards.

    Args:
        model: images [N, 3, H, W] to logits [N, classes].
        data: configured; its training transform is used, and its batch size.
        epochs: passes over the training part, at least 1.
        learning_rate: the highest of the cycle.
        seed: of order and augmentation.

    Returns:
        Mean training loss of every epoch, in nats.
    """
    torch.manual_seed(seed)
    data.setup("fit")
    loader = data.train_dataloader()
    # Norms and biases are not decayed.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.15)
    losses = []
    model.train()
    for _ in range(epochs):
        total, count = 0.0, 0
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total, count = total + float(loss.detach()) * len(labels), count + len(labels)
        losses.append(total / count)
        print(f"trained an epoch: loss {losses[-1]:.3f}", flush=True)
    model.eval()
    return losses


def trained(model: nn.Module, path: Path | None, training: Callable[[nn.Module], object]) -> nn.Module:
    """The network with the weights of a file, or trained and kept there; evaluation mode.

    Args:
        model: of the architecture, changed in place.
        path: a safetensors file; None trains and keeps nothing.
        training: trains a network in place.

    Raises:
        RuntimeError: the file holds another network's weights.
    """
    if path is not None and path.is_file():
        model.load_state_dict(load_file(path))
        return model.eval()
    training(model)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return model.eval()
