"""Dense prediction of `segmentation-models-pytorch`: three decoders on three encoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

__all__ = ["BUILDERS"]

ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0")
DECODERS = {"unet": smp.Unet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus}


def _build(decoder: str, encoder: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model: nn.Module = DECODERS[decoder](encoder_name=encoder, encoder_weights=None, classes=3).eval()
    return model, torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


BUILDERS = {f"{decoder}/{encoder}": partial(_build, decoder, encoder) for decoder in DECODERS for encoder in ENCODERS}
