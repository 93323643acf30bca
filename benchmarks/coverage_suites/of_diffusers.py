"""Networks of diffusion models, tiny and with random weights, by the classes of `diffusers`."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor, nn

__all__ = ["BUILDERS"]

CHANNELS = (32, 64)


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _steps() -> Tensor:
    return torch.tensor([1, 20, 300, 900])


def _unet() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model.eval(), {"sample": _noise(4, 3, 16, 16), "timestep": _steps()}


def _conditional_unet() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=CHANNELS,
        cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    text = _noise(4, 7, 32)
    return model.eval(), {"sample": _noise(4, 4, 16, 16), "timestep": _steps(), "encoder_hidden_states": text}


def _autoencoder() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=CHANNELS, layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8,
    )  # fmt: skip
    return model.eval(), {"sample": _noise(4, 3, 32, 32)}


def _transformer() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    classes = torch.tensor([1, 2, 3, 4])
    return model.eval(), {"hidden_states": _noise(4, 4, 8, 8), "timestep": _steps(), "class_labels": classes}


BUILDERS = {
    "unet2d": _unet,
    "unet2d_condition": _conditional_unet,
    "autoencoder_kl": _autoencoder,
    "dit": _transformer,
}
