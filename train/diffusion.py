"""Variance-preserving diffusion in v-prediction: noise levels, targets, guided prediction, DDIM sampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from runtime.noise import randn
from runtime.schedule import add_noise, alphas_sigmas, trailing_timesteps, x0_from_v

LAST_TIMESTEP = 999


class NoiseLevels:
    """alpha_t and sigma_t of the one-step schedule as f32[1000] tensors."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        alpha, sigma = alphas_sigmas()
        self.alpha = torch.from_numpy(np.asarray(alpha)).float().to(device)
        self.sigma = torch.from_numpy(np.asarray(sigma)).float().to(device)

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) f32[B, 1, 1, 1] of timesteps i64[B]."""
        return self.alpha[timesteps].view(-1, 1, 1, 1), self.sigma[timesteps].view(-1, 1, 1, 1)

    def noised(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """alpha_t x0 + sigma_t eps."""
        alpha, sigma = self.at(timesteps)
        return add_noise(x0, eps, alpha, sigma)

    def x0(self, x: Tensor, v: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that a v prediction stands for."""
        alpha, sigma = self.at(timesteps)
        return x0_from_v(x, v, alpha, sigma)


def guided_x0(
    unet: UNet2DConditionModel, levels: NoiseLevels, x: Tensor, timesteps: Tensor, text: Tensor, no_text: Tensor,
    guidance: float,
) -> Tensor:
    """x0 by classifier-free guidance (Ho & Salimans 2022): x0_u + guidance (x0_c - x0_u); plain x0_c at guidance 1.

    x: f32[B, C, h, w], timesteps: i64[B], text: f32[B, 77, D], no_text: f32[77, D].
    """
    if guidance == 1.0:
        return levels.x0(x, unet(x, timesteps, text).sample, timesteps)
    both = torch.cat([text, no_text.expand_as(text)])
    v_text, v_none = unet(torch.cat([x, x]), torch.cat([timesteps, timesteps]), both).sample.chunk(2)
    return levels.x0(x, v_none + guidance * (v_text - v_none), timesteps)


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel, text: Tensor, no_text: Tensor, seeds: Sequence[int], steps: int, guidance: float
) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eta 0) from each seed's noise: latents f32[B, C, h, w].

    Trailing timesteps, the same as diffusers' DDIMScheduler; one step is x0 at t = 999.
    """
    levels = NoiseLevels()
    side = unet.config.sample_size
    shape = (unet.config.in_channels, side, side)
    x = torch.from_numpy(np.stack([randn(seed, shape) for seed in seeds]))
    timesteps = [int(t) for t in trailing_timesteps(steps)]
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        index = torch.full((len(x),), t)
        with torch.autocast("cpu", torch.bfloat16):
            x0 = guided_x0(unet, levels, x, index, text, no_text, guidance).float()
        if following is None:
            return x0
        alpha, sigma = levels.at(index)
        eps = (x - alpha * x0) / sigma
        x = levels.noised(x0, eps, torch.full((len(x),), following))
    raise AssertionError("steps must be at least 1")
