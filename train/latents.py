"""Pictures to latents and back: either kind of autoencoder, and the linear map that stands in for it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

Autoencoder: TypeAlias = AutoencoderTiny | AutoencoderKL


class LinearDecoder(nn.Module):
    """latents f32[B, C, h, w] -> pictures f32[B, 3, h*f, w*f], every patch a linear map of its own latent."""

    def __init__(self, weight: Tensor, bias: Tensor, factor: int) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)  # f32[3 * f * f, C, 1, 1]
        self.bias = nn.Buffer(bias)
        self.factor = factor

    def forward(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(latents, self.weight, self.bias), self.factor)


def fit_linear_decoder(latents: Tensor, pictures: Tensor) -> LinearDecoder:
    """Least squares of every f x f patch on its latent. latents: f32[N, C, h, w]; pictures: f32[N, 3, h*f, w*f]."""
    factor = pictures.shape[2] // latents.shape[2]
    patches = F.pixel_unshuffle(pictures.float(), factor).permute(0, 2, 3, 1).flatten(0, 2)
    inputs = latents.float().permute(0, 2, 3, 1).flatten(0, 2)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    gram = (inputs.T @ inputs).double() + 1e-3 * torch.eye(inputs.shape[1]).double()
    solution = torch.linalg.solve(gram, (inputs.T @ patches).double()).float()
    return LinearDecoder(solution[:-1].T.contiguous()[..., None, None], solution[-1].contiguous(), factor)


@torch.no_grad()
def decode_all(vae: Any, latents: Tensor, batch: int = 16) -> Tensor:
    """Pictures f32[N, 3, H, W] on the CPU, by the autoencoder itself."""
    device = next(vae.parameters()).device
    return torch.cat([decode_latents(vae, part.to(device)).cpu() for part in latents.split(batch)])


class VaeDecoder(nn.Module):
    """The pipeline's own decoder, frozen, as a plain latents -> pictures module."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)

    def forward(self, latents: Tensor) -> Tensor:
        return decode_latents(self.vae, latents)


def downscale(vae: Autoencoder) -> int:
    """Pixels per latent along one side."""
    config = vae.config
    return 2 ** (len(getattr(config, "encoder_block_out_channels", None) or config.block_out_channels) - 1)


def to_tensor(pictures: np.ndarray) -> Tensor:
    """u8[N, H, W, 3] -> f32[N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_latents(vae: Autoencoder, pictures: Tensor) -> Tensor:
    """Latents f32[B, C, h, w] as the U-Net expects them, of f32[B, 3, H, W] in [-1, 1]; of a KL posterior, its mode."""
    weight = next(vae.parameters())
    encoded = vae.encode(pictures.to(weight.device, weight.dtype))
    latents = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
    return (latents.float() - _shift(vae)) * vae.config.scaling_factor


def decode_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Pictures f32[B, 3, H, W], nominally in [-1, 1] and not clamped, of latents as the U-Net makes them.

    Gradients flow through it.
    """
    weight = next(vae.parameters())
    unscaled = latents / vae.config.scaling_factor + _shift(vae)
    return vae.decode(unscaled.to(weight.dtype)).sample.float()


def _shift(vae: Autoencoder) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def encode_all(vae: Autoencoder, pictures: np.ndarray, batch: int = 64) -> Tensor:
    """Latents f32[N, C, H/8, W/8], on the CPU, of u8[N, H, W, 3]."""
    parts = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    return torch.cat([encode_latents(vae, to_tensor(part)).cpu() for part in parts])
