"""A linear stand-in for an autoencoder's decoder: pictures from latents at a thousandth of the cost.

The discriminator and the pixel-space distillation loss look at pictures in every step; decoding them with the
real decoder would cost several times what the student itself costs. The linear map is fitted to the real decoder's
own pictures. Real latents are shown to the discriminator through the same map, so that it cannot tell the two apart
by how they were decoded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
