"""All the randomness of one update, drawn from (seed, step, update) for the whole batch and then split among processes.

Because nothing depends on earlier draws or on the number of processes, a run that is resumed or spread over other
processes takes the same steps as one that never stopped, and a checkpoint needs no random states. Noise is drawn where
the run computes: a GPU would wait longer for a processor's normals than for its own step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.add.augment import CHOICES
from train.config import Config
from train.diffusion import LAST_TIMESTEP, noise_generator


@dataclass
class Draws:
    """One row per picture; the real and the fake picture of a row have draws of their own where they matter."""

    timesteps: Tensor  # i64[B], the student's noise level
    noise: Tensor  # f32[B, C, h, w], of the student's input
    teacher_timesteps: Tensor  # i64[B], where the student's output is re-noised for the teacher
    teacher_noise: Tensor  # f32[B, C, h, w]
    augment_fake: Tensor  # f32[B, 7] in [0, 1)
    augment_real: Tensor
    view_level: Tensor  # f32[B] standard normal: the discriminator's re-noise level (features=teacher)
    view_noise_fake: Tensor  # f32[B, C, h, w] of features=teacher, else f32[B, 0]
    view_noise_real: Tensor

    def rows(self, rows: slice | Tensor, device: torch.device | str = "cpu") -> Draws:
        """The draws of some pictures, on a device."""
        parts = {field.name: getattr(self, field.name)[rows].to(device) for field in dataclasses.fields(self)}
        return Draws(**parts)


def shows_picture(config: Config, draws: Draws) -> Tensor:
    """bool[B]: whether a row's student sees anything of its real picture; pure noise shows nothing of it."""
    pure = draws.timesteps == LAST_TIMESTEP
    return ~pure if config.zero_terminal_snr else torch.ones_like(pure)


def update_rng(config: Config, step: int, update: int) -> np.random.Generator:
    """The generator that chooses an update's pictures and captions. update: 0 the student's, then 1, 2, ..."""
    return np.random.default_rng([config.seed, step, update])


def draw(config: Config, step: int, update: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Draws:
    """Draws for `config.batch` pictures with latents of `shape` (C, h, w); noise is drawn on the device."""
    rng = np.random.default_rng([config.seed, step, update, 1])
    noise = noise_generator(int(rng.integers(2**62)), device)
    batch, levels = config.batch, np.array(config.timesteps)

    def normal() -> Tensor:
        return torch.randn((batch, *shape), generator=noise, device=noise.device)

    def view() -> Tensor:
        """The last ones, so that the others are the same whether they are drawn or not."""
        return normal() if config.features == "teacher" else torch.empty(batch, 0)

    return Draws(
        timesteps=torch.from_numpy(levels[rng.choice(len(levels), size=batch, p=config.shares)]),
        noise=normal(),
        teacher_timesteps=torch.from_numpy(rng.integers(1, 1000, size=batch)),
        teacher_noise=normal(),
        augment_fake=torch.from_numpy(rng.random((batch, CHOICES))).float(),
        augment_real=torch.from_numpy(rng.random((batch, CHOICES))).float(),
        view_level=torch.from_numpy(rng.standard_normal(batch)).float(),
        view_noise_fake=view(),
        view_noise_real=view(),
    )


def adversarial_rows(batch: int, adversarial_batch: int) -> Tensor:
    """bool[batch]: which pictures the discriminator sees, spread evenly (0 is all of them)."""
    share = (adversarial_batch or batch) / batch
    counts = np.floor(np.arange(batch + 1) * share + 1e-9)
    return torch.from_numpy(np.diff(counts) > 0)
