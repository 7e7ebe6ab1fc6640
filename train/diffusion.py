"""Variance-preserving diffusion: noise levels, what a prediction stands for, guidance, DDIM sampling."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from runtime.bench.machine import cpu_name
from runtime.errors import UserError
from runtime.noise import randn
from runtime.schedule import PREDICTION_TYPES, add_noise, alphas_sigmas, from_scheduler_config, trailing_timesteps
from runtime.schedule import x0_and_eps as schedule_x0_and_eps
from train.sizes import latent_side

LAST_TIMESTEP = 999


def noise_generator(seed: int, device: torch.device | str) -> torch.Generator:
    """A generator of noise where it is needed: a GPU would wait for the processor's. Anything else has the CPU's."""
    where = torch.device(device)
    return torch.Generator(where if where.type == "cuda" else "cpu").manual_seed(seed)


class NoiseLevels:
    """alpha_t and sigma_t as f32[1000] tensors, and what the network's output means at them.

    Without arguments: the schedule of our own one-step models, v-prediction.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        table: tuple[Any, Any] | None = None,
        prediction_type: str = "v_prediction",
    ) -> None:
        alpha, sigma = table if table is not None else alphas_sigmas()
        self.alpha = torch.from_numpy(np.asarray(alpha)).float().to(device)
        self.sigma = torch.from_numpy(np.asarray(sigma)).float().to(device)
        self.prediction_type = prediction_type

    @classmethod
    def of(cls, scheduler: Any, device: torch.device | str = "cpu") -> NoiseLevels:
        """The levels of a diffusers scheduler. Raises UserError when its prediction type is neither eps nor v."""
        kind = scheduler.config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES:
            raise UserError(f"a teacher that predicts {kind!r} cannot be distilled; expected {PREDICTION_TYPES}")
        return cls(device, from_scheduler_config(scheduler.config), kind)

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) f32[B, 1, 1, 1] of timesteps i64[B]."""
        return self.alpha[timesteps].view(-1, 1, 1, 1), self.sigma[timesteps].view(-1, 1, 1, 1)

    def noised(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """alpha_t x0 + sigma_t eps."""
        alpha, sigma = self.at(timesteps)
        return add_noise(x0, eps, alpha, sigma)

    def generator_input(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Like `noised`, but pure noise at the last timestep (zero terminal SNR).

        A generating student is given pure noise: a trace of x0 in training would be missed.
        """
        return torch.where((timesteps == LAST_TIMESTEP).view(-1, 1, 1, 1), eps, self.noised(x0, eps, timesteps))

    def x0_and_eps(self, x: Tensor, output: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(clean latents, noise) that the network's output stands for."""
        alpha, sigma = self.at(timesteps)
        x0, eps = schedule_x0_and_eps(x, output, self.prediction_type, alpha, sigma)
        return x0, eps

    def x0(self, x: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that the network's output stands for."""
        return self.x0_and_eps(x, output, timesteps)[0]


def guided_output(
    unet: UNet2DConditionModel, x: Tensor, timesteps: Tensor, text: Tensor, no_text: Tensor, guidance: float
) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): u + guidance (c - u); plain c at guidance 1.

    x: f32[B, C, h, w], timesteps: i64[B], text: f32[B, 77, D], no_text: f32[77, D] -> f32[B, C, h, w].
    """
    x, text, no_text = (tensor.to(unet.dtype) for tensor in (x, text, no_text))
    if guidance == 1.0:
        return unet(x, timesteps, text).sample.float()
    both = torch.cat([text, no_text.expand_as(text)])
    with_text, without = unet(torch.cat([x, x]), torch.cat([timesteps, timesteps]), both).sample.float().chunk(2)
    return without + guidance * (with_text - without)


def computes_in_bf16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bf16; a processor without them takes fifty times as long as in fp32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" in cpu_name()


def autocast(device: torch.device | str, enabled: bool = True) -> AbstractContextManager[None]:
    """Matrix products in bf16 inside the block; the only way to ask for it."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if enabled else nullcontext()


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    text: Tensor,
    no_text: Tensor,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    levels: NoiseLevels | None = None,
    bf16: bool = True,
) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eta 0) from each seed's noise: latents f32[B, C, h, w].

    Trailing timesteps, the same as diffusers' DDIMScheduler; one step is x0 at t = 999. levels: the schedule, on
    the network's device; ours when left out. bf16: compute in it.
    """
    device = text.device
    levels = levels or NoiseLevels(device)
    side = latent_side(unet)
    shape = (unet.config.in_channels, side, side)
    x = torch.from_numpy(np.stack([randn(seed, shape) for seed in seeds])).to(device)
    timesteps = [int(t) for t in trailing_timesteps(steps)]
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        index = torch.full((len(x),), t, device=device)
        with autocast(device, bf16):
            output = guided_output(unet, x, index, text, no_text, guidance)
        x0, eps = levels.x0_and_eps(x, output, index)
        if following is None:
            return x0
        x = levels.noised(x0, eps, torch.full((len(x),), following, device=device))
    raise AssertionError("steps must be at least 1")
