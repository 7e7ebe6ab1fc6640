"""The way from one picture to another through the student: `between` yields its frames as they are made.

At t in [0, 1] the two pictures' latents are mixed spherically and their text states linearly, and one step of the
student from a fixed noise makes a picture S(t) of the mixture. What the student loses of the two pictures is added back
in proportion: S(t) + (1 - t) (A - S(0)) + t (B - S(1)), in latents before the decoder and in pixels after it.
So the way begins exactly at A and ends exactly at B, nothing jumps, and between two nearly equal pictures hardly
anything but their mean is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import arguments, pixels
from runtime.cancel import CancelToken
from runtime.generation import Generation
from runtime.interpolate.slerp import lerp, slerp
from runtime.manifest import Manifest
from runtime.noise import check_seed, randn
from runtime.pipeline import Pipeline

F32 = npt.NDArray[np.float32]
Text = tuple[F32, F32 | None]  # states [tokens, width], and pooled [width] where the U-Net takes it
MOST_FRAMES = 500
# How much of the way between two pictures the student may lose of each: the limit that tells those that it draws itself
# from those that it does not know (docs/interpolation.md).
MOST_LOST = 0.5
_LEAST_PROBES, _MOST_PROBES = 8, 64
_STILL = 1e-5  # of the latents' norm: a shorter way is rounding


@dataclass(frozen=True)
class Frame:
    """A picture on the way."""

    t: float  # 0 at the first picture, 1 at the last
    image: Image.Image


@dataclass(frozen=True)
class Start:
    """What an end is made of."""

    image: Any  # as `pixels.from_image` takes it
    prompt: str  # "" for nothing
    seed: int  # of the noise


@dataclass(frozen=True)
class End:
    """One of the two pictures, as the bundle sees it."""

    picture: F32  # [3, H, W] in [-1, 1], fitted to the bundle's size
    latents: F32  # [C, h, w]
    states: F32  # [tokens, width]
    pooled: F32 | None  # [width], where the U-Net takes it
    seed: int
    noise: F32  # [C, h, w], the seed's
    lost_latents: F32  # latents less the student's: A - S(0)
    lost_pixels: F32  # the picture less its latents, decoded

    @property
    def image(self) -> Image.Image:
        """The fitted picture itself."""
        return pixels.to_image(self.picture)


def between(
    pipe: Pipeline,
    first: Any,
    last: Any,
    count: int,
    *,
    prompt: str = "",
    prompt_b: str | None = None,
    seed: int = 0,
    seed_b: int | None = None,
    strength: float | None = None,
    even: bool = True,
    cancel: CancelToken | None = None,
) -> Iterator[Frame]:
    """`first`, `count` frames between, `last`, each yielded when it is made; pictures are fitted to the bundle's size.

    - first, last: PIL pictures or arrays, as `pixels.from_image` takes them
    - prompt, prompt_b: what the two show, "" for nothing; prompt_b None: the same
    - seed, seed_b: of the noise at the two ends; seed_b None: the same noise throughout
    - strength: above 0 (nearly a cross-fade) to 1 (hardly anything of the pictures but their prompts); None: see
      `known_strength`
    - even: frames at equal distances of their latents, for which the way is sampled at some places first; else at
      equal steps of t
    - cancel: a CancelToken by which another thread can stop it

    Raises ValueError before the first frame for what is not allowed, BundleError, Cancelled, ClosedError.
    """
    check_count(count)
    if strength is not None:
        arguments.steps(pipe.manifest, 1, strength, True)
    ends = (
        Start(first, prompt, check_seed(seed)),
        Start(last, prompt if prompt_b is None else prompt_b, check_seed(seed if seed_b is None else seed_b)),
    )
    return _frames(pipe, ends, count, strength, even, cancel)


def _frames(
    pipe: Pipeline,
    ends: tuple[Start, Start],
    count: int,
    strength: float | None,
    even: bool,
    cancel: CancelToken | None,
) -> Iterator[Frame]:
    way = Way(pipe, known_strength(pipe, *ends, cancel=cancel) if strength is None else strength, cancel)
    a, b = (way.end(one) for one in ends)
    yield Frame(0.0, a.image)
    for t in way.even_places(a, b, count) if even else uniform_places(count):
        yield Frame(t, way.picture(a, b, t))
    yield Frame(1.0, b.image)


def strengths(manifest: Manifest) -> list[float]:
    """The distinct strengths, one per timestep of the manifest, lowest first."""
    known = sorted({step.timestep for steps in manifest.steps.values() for step in steps})
    return [(timestep + 1) / (known[-1] + 1) for timestep in known]


def known_strength(pipe: Pipeline, a: Start, b: Start, cancel: CancelToken | None = None) -> float:
    """The highest strength at which the student still knows both pictures, else the lowest.

    It knows a picture where it loses at most MOST_LOST of the distance between the two, in latents. The more it may
    add of its own, the less of a double exposure is on the way; what it loses is a double exposure again.
    """
    codes = [pipe.encode(one.image, cancel) for one in (a, b)]
    distance = float(np.linalg.norm(codes[1] - codes[0]))
    least, *others = strengths(pipe.manifest)
    for strength in reversed(others):
        way = Way(pipe, strength, cancel)
        lost = [np.linalg.norm(way.lost(code, one)) for code, one in zip(codes, (a, b), strict=True)]
        if max(lost) < MOST_LOST * distance:
            return strength
    return least


def check_count(count: int, most: int = MOST_FRAMES) -> None:
    """ValueError unless it is a number of frames to make."""
    if arguments.check_count("frames", count) > most:
        raise ValueError(f"frames must be 1 to {most}, not {count}")


def uniform_places(count: int) -> list[float]:
    """`count` values of t between 0 and 1 at equal distances."""
    return [i / (count + 1) for i in range(1, count + 1)]


class Way:
    """The ends and the pictures between them, for one bundle at one strength. Safe from any thread."""

    def __init__(self, pipe: Pipeline, strength: float, cancel: CancelToken | None = None) -> None:
        """Raises ValueError when the strength is not allowed."""
        (self.step,) = arguments.steps(pipe.manifest, 1, strength, True)
        self.strength = strength
        self._pipe, self._cancel = pipe, cancel

    def end(self, start: Start) -> End:
        """The end that a picture makes. Raises ValueError, BundleError."""
        picture = pixels.from_image(start.image, self._pipe.manifest.image_size)
        latents = self._pipe.encode(start.image, self._cancel)
        students: list[F32] = []

        def itself(made: F32) -> F32:
            students.append(made)
            return latents

        text, noise = self._given(start)
        decoded = self._run(latents, noise, text, itself)
        lost = np.zeros_like(picture) if decoded.nsfw or decoded.picture is None else picture - decoded.picture
        return End(picture, latents, *text, start.seed, noise, latents - students[0], lost)

    def lost(self, latents: F32, start: Start) -> F32:
        """f32[C, h, w]: a picture's latents less what the student makes of them."""
        text, noise = self._given(start)
        return latents - self._run(latents, noise, text, lambda made: made, decode=False).latents

    def _given(self, start: Start) -> tuple[Text, F32]:
        """Text and noise."""
        pipe, prompt = self._pipe, start.prompt
        text = pipe.encode_prompt(prompt, self._cancel), pipe.encode_pooled_prompt(prompt, self._cancel)
        return text, randn(start.seed, pipe.manifest.latent_shape)

    def latents(self, a: End, b: End, t: float) -> F32:
        """f32[C, h, w] at t."""
        return self._made(a, b, t, decode=False).latents

    def picture(self, a: End, b: End, t: float) -> Image.Image:
        """The picture at t, in (0, 1)."""
        made = self._made(a, b, t, decode=True)
        assert made.picture is not None
        if made.nsfw:  # the checker's picture, to which nothing of the two must be added
            return pixels.to_image(made.picture)
        return pixels.to_image(made.picture + lerp(a.lost_pixels, b.lost_pixels, t))

    def even_places(self, a: End, b: End, count: int) -> list[float]:
        """`count` values of t whose latents lie at about equal distances along the way."""
        tried = np.linspace(0, 1, min(max(2 * (count + 1), _LEAST_PROBES), _MOST_PROBES) + 1)
        codes = [a.latents, *(self.latents(a, b, float(t)) for t in tried[1:-1]), b.latents]
        lengths = [float(np.linalg.norm(y - x)) for x, y in pairwise(codes)]
        if sum(lengths) < _STILL * float(np.linalg.norm(a.latents) + np.linalg.norm(b.latents)):
            return uniform_places(count)
        way = np.concatenate([[0.0], np.cumsum(lengths)])
        return [float(t) for t in np.interp(np.array(uniform_places(count)) * way[-1], way, tried)]

    def _made(self, a: End, b: End, t: float, decode: bool) -> Generation:
        lost = lerp(a.lost_latents, b.lost_latents, t)
        noise = a.noise if a.seed == b.seed else slerp(a.noise, b.noise, t)
        pooled = None if a.pooled is None or b.pooled is None else lerp(a.pooled, b.pooled, t)
        text = lerp(a.states, b.states, t), pooled
        return self._run(slerp(a.latents, b.latents, t), noise, text, partial(np.add, lost), decode)

    def _run(self, latents: F32, noise: F32, text: Text, mend: Callable[[F32], F32], decode: bool = True) -> Generation:
        """One step of the student from noised latents; `mend` may change its latents before they are decoded."""

        def after_step(pipe: Pipeline, i: int, timestep: int, values: dict[str, Any]) -> dict[str, Any]:
            return {"latents": mend(values["latents"][0])}

        (made,) = self._pipe.run(
            prompt_embeds=text[0],
            pooled_prompt_embeds=text[1],
            latents=noise,
            image=latents,
            strength=self.strength,
            callback_on_step_end=after_step,
            cancel=self._cancel,
            decode=decode,
        )
        return made
