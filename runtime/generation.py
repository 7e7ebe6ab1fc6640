"""What a call asks for and what it gives: options, jobs, pictures and how each was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import pixels
from runtime.cancel import CancelToken
from runtime.manifest import REQUIRED, Step
from runtime.variation.choice import Choice
from runtime.watermark.embed import embedded

F32 = npt.NDArray[np.float32]
# As in diffusers: (pipeline, step, timestep, {"latents": ...}) -> changed values, or None.
Callback = Callable[[Any, int, Any, dict[str, Any]], "dict[str, Any] | None"]
Seeds = int | np.integer[Any] | Sequence[int] | npt.NDArray[np.integer[Any]]
OutputType = Literal["pil", "np", "latent"]


class Options(TypedDict, total=False):
    """The keyword arguments of `Pipeline.run`, which explains them."""

    negative_prompt: str | Sequence[str] | None
    prompt_embeds: Any
    pooled_prompt_embeds: Any
    seed: Seeds | None
    generator: Any
    variation: Choice
    num_inference_steps: int
    guidance_scale: float
    num_images_per_prompt: int
    height: int | None
    width: int | None
    latents: Any
    image: Any
    strength: float | None
    callback_on_step_end: Callback | None
    cancel: CancelToken | None
    watermark: bool | None


@dataclass(frozen=True)
class Job:
    """One picture to make."""

    prompt: str
    negative_prompt: str | None
    seed: int
    guided: bool = False  # by a prediction for the negative prompt, or for no text where there is none
    typed: str | None = None  # the prompt as it was typed, where variation completed it


@dataclass(repr=False, eq=False)
class Generation:
    """One picture and how it was made: `.image`, `.seed`, `.prompt`, `.typed_prompt`, `.ms`, and arrays behind it."""

    job: Job
    latents: F32  # [C, h, w]
    picture: F32 | None = None  # [3, H, W] in [-1, 1]; None where only latents were asked for
    nsfw: bool | None = None  # what the safety checker said; None without one
    drawn: int = 0  # how often the generator gave normals before the noise that the run starts from
    mark: int | None = None  # the code of the watermark that `image` gets; None: it gets none
    ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*REQUIRED, "total"), 0.0))

    @property
    def prompt(self) -> str:
        """What the picture shows, completed where variation did so; "" where states were given instead of a prompt."""
        return self.job.prompt

    @property
    def typed_prompt(self) -> str:
        """The prompt as it was typed."""
        return self.job.prompt if self.job.typed is None else self.job.typed

    @property
    def seed(self) -> int:
        """The seed of the noise that the picture started from."""
        return self.job.seed

    @cached_property
    def image(self) -> Image.Image:
        """The picture, converted and marked when first asked for. Raises ValueError where only latents were made."""
        if self.picture is None:
            raise ValueError("there is no picture: the call asked for latents alone (decode=False)")
        made = pixels.to_image(self.picture)
        return made if self.mark is None else embedded(made, self.mark)

    def unit(self) -> F32:
        """`image` before it is rounded to 8 bits: f32[H, W, 3] in [0, 1], with what the mark changes added."""
        if self.picture is None:
            return np.asarray(self.image, np.float32)  # raises
        plain = pixels.to_unit(self.picture).transpose(1, 2, 0)
        if self.mark is None:
            return plain
        rounded = np.asarray(pixels.to_image(self.picture), np.float32)
        changed: F32 = (np.asarray(self.image, np.float32) - rounded) / np.float32(255)
        return (plain + changed).clip(0, 1)

    def __repr__(self) -> str:
        size = "latents" if self.picture is None else f"{self.picture.shape[2]}x{self.picture.shape[1]}"
        return f"<Generation {self.prompt!r}, seed {self.seed}, {size}, {self.ms['total']:.1f} ms>"

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


@dataclass(frozen=True)
class Plan:
    """One call, checked: what to make and how."""

    made: list[Generation]  # one for every picture, without latents yet
    states: list[F32 | None]  # the caller's text states, one for every picture; None: the prompt's
    pooled: list[F32 | None]  # and pooled text
    steps: tuple[Step, ...]  # noisiest first
    guidance_scale: float
    size: tuple[int, int]  # height, width in pixels
    noise_given: bool = False  # the caller's latents take the place of each seed's noise


class Images(list[Image.Image]):
    """The pictures of one call: a list, which is also its own `.images`, for code written for diffusers' pipelines."""

    def __init__(self, made: Iterable[Generation]) -> None:
        """made: decoded pictures, see `Pipeline.run`."""
        rows = list(made)
        super().__init__(row.image for row in rows)
        self.seeds = [row.seed for row in rows]
        self.prompts = [row.prompt for row in rows]
        self.typed_prompts = [row.typed_prompt for row in rows]

    @property
    def images(self) -> Images:
        """The list itself."""
        return self
