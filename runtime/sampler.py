"""What a run of steps remembers, and one step of it: sums of latents, outputs and fresh noise, by a manifest's weights.

Any scheduler whose step is linear takes this form: DDIM, Euler, LCM, TCD, DPM-Solver++, UniPC, DEIS, Heun.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.manifest import Step
from runtime.noise import randn
from runtime.schedule import v_from_eps, weighted_sum

F32 = npt.NDArray[np.float32]
Array = Any  # a numpy array or a torch tensor


def weighed(step: Step, latents: Array, output: Array, given: str | None, wanted: str) -> Array:
    """A U-Net's output as the step weighs it. given: its prediction type, None for the `wanted` one, the manifest's."""
    if given == "epsilon" and wanted == "v_prediction":
        return v_from_eps(latents, output, step.alpha, step.sigma)
    return output


class Memory:
    """The U-Net's inputs and outputs of one picture's run, newest first."""

    def __init__(self) -> None:
        self._latents: list[Array] = []
        self._outputs: list[Array] = []

    def step(self, step: Step, latents: F32, output: F32, seed: int, drawn: int = 0) -> F32:
        """The latents after `step`, f32[C, h, w], from those before it and the U-Net's output on them.

        drawn: how often the seed's generator gave normals before the run's first noise.
        """
        noise = randn(seed, latents.shape, drawn + step.draw) if step.noise else None
        made: F32 = self.advance(step, latents, output, noise)
        return made

    def advance(self, step: Step, latents: Array, output: Array, noise: Array | None = None) -> Array:
        """The same with the fresh noise given, of which None is none."""
        self._latents.insert(0, latents)
        self._outputs.insert(0, output)
        terms = [*zip(step.latents, self._latents, strict=False), *zip(step.outputs, self._outputs, strict=False)]
        return weighted_sum(terms if noise is None else [*terms, (step.noise, noise)])
