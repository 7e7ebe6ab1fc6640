"""The teacher as a guide: what the student's picture should have been (ADD eq. 4)."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from train.add.draws import Draws
from train.config import Config
from train.diffusion import NoiseLevels, autocast, guided_output

NFSD_SWITCH = 200  # below this timestep the unconditional prediction holds no noise term worth removing (2310.17590)


class TeacherGuide:
    """A frozen, guided teacher behind a stop-gradient."""

    def __init__(
        self, unet: UNet2DConditionModel, levels: NoiseLevels, no_text: Tensor, negative_text: Tensor, config: Config
    ) -> None:
        """no_text, negative_text: states f32[77, D] of the empty and of the negative prompt."""
        self.unet, self.levels = unet, levels
        self.no_text, self.negative_text = no_text, negative_text
        self.guidance, self.steps, self.weighting = config.guidance, config.teacher_steps, config.weighting
        self.bf16 = config.precision == "bf16"

    @torch.no_grad()
    def target(self, x0_hat: Tensor, text: Tensor, draws: Draws) -> Tensor:
        """The teacher's x0, f32[B, C, h, w], of the STUDENT's x0 re-noised at a random t (not of the real picture)."""
        timesteps = draws.teacher_timesteps
        noisy = self.levels.noised(x0_hat, draws.teacher_noise, timesteps)
        with autocast(x0_hat.device, self.bf16):
            if self.weighting == "nfsd":
                return self._noise_free_target(x0_hat, noisy, timesteps, text)
            return self._denoise(noisy, timesteps, text)

    def _denoise(self, x: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """`steps` DDIM steps of equal length from each row's timestep down to the picture."""
        for done in range(self.steps):
            now = timesteps * (self.steps - done) // self.steps
            output = guided_output(self.unet, x, now, text, self.no_text, self.guidance)
            x0, eps = self.levels.x0_and_eps(x, output, now)
            x = self.levels.noised(x0, eps, timesteps * (self.steps - done - 1) // self.steps)
        return x0

    def _noise_free_target(self, x0_hat: Tensor, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The x0 whose distance has NFSD's gradient: delta_D + s delta_C without the noise term (2310.17590, eq. 11).

        delta_C = eps(text) - eps(); delta_D = eps() at t < 200, else eps() - eps(negative prompt).
        """
        empty, negative = self.no_text.expand_as(text), self.negative_text.expand_as(text)
        texts = torch.cat([text, empty, negative]).to(self.unet.dtype)
        triple = noisy.repeat(3, 1, 1, 1).to(self.unet.dtype)
        outputs = self.unet(triple, timesteps.repeat(3), texts).sample.float().chunk(3)
        with_text, without, against = (self.levels.x0_and_eps(noisy, output, timesteps)[1] for output in outputs)
        late = (timesteps < NFSD_SWITCH).view(-1, 1, 1, 1)
        direction = torch.where(late, without, without - against) + self.guidance * (with_text - without)
        alpha, sigma = self.levels.at(timesteps)
        return x0_hat - sigma / alpha * direction
