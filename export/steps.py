"""A checkpoint's own scheduler, run by diffusers, as sums that any client can compute.

A linear scheduler works on each value alone, so it may be run on coefficients instead of values: the U-Net's inputs,
its outputs and the fresh noises are unit vectors, and what comes out are the weights of each. Runs on real numbers
then show whether the scheduler is linear; one that clips latents is not.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from export.checks.folder import clipping
from runtime.errors import UserError
from runtime.manifest import MOST_MEMORY, Step
from runtime.sampler import Memory

TOLERANCE = 1e-3  # relative to a step's largest value
SHAPE = (1, 4, 8, 8)
SEED = 11
SMALLEST = 1e-9  # a weight below is rounding
VARIANCE = 1e-3  # by which alpha**2 + sigma**2 may differ from 1


def steps_of(scheduler: Any, count: int, eta: float = 0.0) -> tuple[Step, ...]:
    """The steps of `count`, noisiest first, as the scheduler takes them in diffusers' pipelines.

    eta: the argument of the pipeline's call. Raises UserError with the reason where no sums of latents, outputs and
    noise give them.
    """
    name = type(scheduler).__name__
    try:
        made = Probe(scheduler, count, eta).run()
        difference = compared(scheduler, count, made, eta)
    except UserError:
        raise
    except Exception as error:  # a scheduler may refuse a number of steps with any exception
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"its {name} cannot take {count} steps: {reason}") from error
    if not difference <= TOLERANCE:
        raise UserError(f"its {name} does more in a step than weigh latents, outputs and noise{_culprit(scheduler)}")
    for step in made:
        if abs(step.alpha**2 + step.sigma**2 - 1) > VARIANCE:
            raise UserError(f"the noise levels of its {name} do not preserve variance, as those of VP models do")
    return made


def _culprit(scheduler: Any) -> str:
    key = clipping(type(scheduler).__name__, scheduler.config)
    return f": set {key} to false in scheduler/scheduler_config.json if the model allows it" if key else ""


@dataclass
class Row:
    """One evaluation, in the scheduler's own scale of latents."""

    timestep: float
    scale: float  # of the latents to the U-Net's input
    level: tuple[float, float]  # weights of picture and noise
    after: Tensor  # the latents after the step, by unit vectors


@dataclass
class Probe:
    """A run on unit vectors: [U-Net inputs | outputs | noises]."""

    scheduler: Any
    count: int
    eta: float = 0.0
    draws: int = 0
    size: int = 0
    rows: list[Row] = field(default_factory=list)

    def run(self) -> tuple[Step, ...]:
        """The steps."""
        scheduler = ready(self.scheduler, self.count)
        timesteps = list(scheduler.timesteps)
        self.size = len(timesteps)
        if self.size > MOST_MEMORY or len(set(map(float, timesteps))) != self.count:
            raise UserError(f"its {type(scheduler).__name__} takes {self.size} evaluations for {self.count} steps")
        noise_scale = float(scheduler.init_noise_sigma)
        level_of = ready(self.scheduler, self.count)
        with mock.patch.object(sys.modules[type(scheduler).__module__], "randn_tensor", self.draw, create=True):
            for i, t in enumerate(timesteps):
                unit = self.unit(i)
                scaled = scheduler.scale_model_input(unit, t)
                taken = scheduler.step(self.unit(self.size + i), t, unit, **arguments(scheduler, self.eta))
                scale = float(scaled.flatten()[i])
                level = noising(level_of, t)
                self.rows.append(Row(float(t), scale, level, taken.prev_sample.flatten().double()))
        return tuple(self.step(i, noise_scale if i == 0 else None) for i in range(self.size))

    def unit(self, i: int) -> Tensor:
        """f64[1,1,1,N], 1 at place i."""
        made = torch.zeros(1, 1, 1, 3 * self.size + MOST_MEMORY, dtype=torch.float64)
        made[..., i] = 1
        return made

    def draw(self, shape: Any, *_: Any, **__: Any) -> Tensor:
        """In the place of diffusers' randn_tensor: the next fresh noise."""
        self.draws += 1
        return self.unit(2 * self.size + self.draws)

    def step(self, i: int, noise_scale: float | None) -> Step:
        """The step of row i, on latents in the U-Net's scale."""
        row = self.rows[i]
        after = self.rows[i + 1].scale if i + 1 < self.size else 1.0
        weights = (row.after * after).tolist()
        of_latents = [weights[k] / self.rows[k].scale for k in range(i, -1, -1)]
        of_outputs = [weights[self.size + k] for k in range(i, -1, -1)]
        draws = [(k, weights[2 * self.size + k]) for k in range(1, self.draws + 1)]
        noises = [(k, weight) for k, weight in draws if abs(weight) > SMALLEST]
        if len(noises) > 1:
            raise UserError(f"its {type(self.scheduler).__name__} adds several noises in a step")
        draw, noise = noises[0] if noises else (0, 0.0)
        return Step(
            timestep=int(row.timestep) if row.timestep == int(row.timestep) else row.timestep,
            alpha=row.level[0] * row.scale,
            sigma=row.level[1] * row.scale,
            latents=trimmed(of_latents),
            outputs=trimmed(of_outputs),
            noise=noise,
            draw=draw,
            noise_scale=1.0 if noise_scale is None else exact(noise_scale * row.scale),
        )


def trimmed(weights: list[float]) -> tuple[float, ...]:
    """Without the oldest that are 0, at least one."""
    kept = [weight if abs(weight) > SMALLEST else 0.0 for weight in weights]
    while len(kept) > 1 and kept[-1] == 0:
        kept.pop()
    return tuple(kept)


def exact(number: float) -> float:
    """1 where it is 1 but for single precision's rounding."""
    return 1.0 if abs(number - 1) < 1e-6 else number


def ready(scheduler: Any, count: int) -> Any:
    """A fresh scheduler of the same configuration, set to `count` steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = type(scheduler).from_config(copy.deepcopy(scheduler.config))
        fresh.set_timesteps(count)
    return fresh


def arguments(scheduler: Any, eta: float = 0.0, generator: torch.Generator | None = None) -> dict[str, Any]:
    """What diffusers' pipelines give a scheduler's step, as far as it takes that: eta and the generator."""
    known = inspect.signature(scheduler.step).parameters
    return {key: value for key, value in (("eta", eta), ("generator", generator)) if key in known}


def noising(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """Weights (picture, noise) of the scheduler's own `add_noise` at a timestep."""
    one, none = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    at = torch.as_tensor(timestep).reshape(1)
    return float(scheduler.add_noise(one, none, at)), float(scheduler.add_noise(none, one, at))


def compared(scheduler: Any, count: int, steps: tuple[Step, ...], eta: float) -> float:
    """The largest relative difference of our sums from a run of the scheduler on random numbers."""
    draws = torch.Generator().manual_seed(SEED)
    other = torch.Generator().manual_seed(SEED)
    first = torch.randn(SHAPE, generator=draws)
    fresh = [torch.randn(SHAPE, generator=draws) for _ in range(MOST_MEMORY)]
    torch.randn(SHAPE, generator=other)
    outputs = torch.randn(len(steps), *SHAPE, generator=torch.Generator().manual_seed(SEED + 1))
    theirs, ours = ready(scheduler, count), Memory()
    own, latents = first * theirs.init_noise_sigma, first * steps[0].noise_scale
    largest = 0.0
    for step, t, output in zip(steps, theirs.timesteps, outputs, strict=True):
        given = theirs.scale_model_input(own, t)
        largest = max(largest, relative(latents, given))
        own = theirs.step(output, t, own, **arguments(theirs, eta, other)).prev_sample
        latents = ours.advance(step, latents, output, fresh[step.draw - 1] if step.noise else None)
    return max(largest, relative(latents, own))


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference by the largest value; infinite where one is not finite."""
    difference = float((found - expected).abs().max() / expected.abs().max())
    return float("inf") if math.isnan(difference) else difference
