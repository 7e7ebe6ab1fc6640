"""What a call asks for and what it gives: options, jobs, pictures with how they came to be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from runtime.manifest import REQUIRED

if TYPE_CHECKING:
    from runtime.cancel import CancelToken

    pass


F32 = npt.NDArray[np.float32]
# As in diffusers: (pipeline, step, timestep, {"latents": ...}) -> changed values, or None.
Callback = Callable[[Any, int, int, dict[str, Any]], "dict[str, Any] | None"]


class Options(TypedDict, total=False):
    """The keyword arguments of `Pipeline.run`, which explains them."""

    negative_prompt: str | Sequence[str] | None
    prompt_embeds: Any
    seed: int | Sequence[int] | None
    num_inference_steps: int
    guidance_scale: float
    num_images_per_prompt: int
    height: int | None
    width: int | None
    latents: Any
    image: Any
    strength: float
    callback_on_step_end: Callback | None
    cancel: CancelToken | None


@dataclass(frozen=True)
class Job:
    """One picture to make."""

    prompt: str
    negative_prompt: str | None  # None: without guidance
    seed: int


@dataclass
class Generation:
    """One picture and how it came to be."""

    job: Job
    latents: F32  # [C, h, w]
    picture: F32 | None = None  # [3, H, W] in [-1, 1]; None where only latents were asked for
    nsfw: bool | None = None  # what the safety checker said; None without one
    ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*REQUIRED, "total"), 0.0))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the milliseconds that the block takes to the stage and to the total."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = (time.perf_counter() - start) * 1000
            self.ms[stage] = self.ms.get(stage, 0.0) + took
            self.ms["total"] += took
