"""Tokens -> text -> latents -> picture: a loaded bundle, and `generate` for a single call."""

from __future__ import annotations

import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import pixels, request, schedule
from runtime.background import Task
from runtime.bundle import Bundle, open_bundle, resolve_bundle
from runtime.errors import BundleError, TruncationWarning
from runtime.manifest import Manifest, Step
from runtime.noise import randn
from runtime.session import INPUTS, Session, choose_provider
from runtime.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]
Callback = Callable[["Pipeline", int, int, dict[str, Any]], "dict[str, Any] | None"]
STAGES = ("text_encoder", "unet", "vae_decoder")
_CACHED_TEXTS = 256
_NAMED_WORDS, _NAMED_LETTERS = 20, 40  # of what a TruncationWarning says was dropped


@dataclass
class Generation:
    """One picture and how it came to be."""

    job: request.Job
    latents: F32  # [C, h, w]
    picture: F32 | None = None  # [3, H, W] in [-1, 1]; None where only latents were asked for
    ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*STAGES, "total"), 0.0))

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


class Pipeline:
    """A loaded bundle. Call it from any number of threads; the same arguments give the same pictures.

    Pictures of one call are computed one by one: a picture does not depend on its neighbours.
    """

    def __init__(self, bundle: Bundle, provider: str = "auto", threads: int = 0) -> None:
        """`provider`: auto, cpu, cuda, coreml, openvino; `threads` an operator, 0: ONNX Runtime's choice."""
        self.bundle = bundle
        self.tokenizer = Tokenizer.from_folder(bundle.folder / "tokenizer")
        chosen = choose_provider(provider)
        present = [part for part in INPUTS if f"{part}/model.onnx" in bundle.manifest.files]
        self._sessions = {part: Session(part, bundle.model(part), chosen, threads) for part in present}
        self._texts: OrderedDict[bytes, F32] = OrderedDict()
        self._texts_lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """The bundle's facts."""
        return self.bundle.manifest

    @property
    def provider(self) -> str:
        """The execution provider in use: cpu, cuda, coreml or openvino."""
        return self._sessions["unet"].provider

    def open(self) -> None:
        """Opens the graphs that every call needs, side by side; the first call does so otherwise."""
        first, *others = [self._sessions[stage] for stage in STAGES]
        tasks = [Task(session.open) for session in others if not session.is_open]
        first.open()
        for task in tasks:
            task.wait()

    def __call__(
        self, prompt: str | Sequence[str], *, output_type: str = "pil", **options: Unpack[request.Options]
    ) -> list[Image.Image] | F32:
        """Pictures for one prompt or several, in the order of the prompts; arguments as in `run`.

        output_type: "pil" a list of pictures, "np" f32[B, H, W, 3] in [0, 1], "latent" f32[B, C, h, w].
        """
        request.check_output_type(output_type)
        made = self.run(prompt, decode=output_type != "latent", **options)
        if output_type == "latent":
            return np.stack([one.latents for one in made])
        pictures = [one.picture for one in made if one.picture is not None]
        if output_type == "np":
            return np.stack([pixels.to_unit(picture).transpose(1, 2, 0) for picture in pictures])
        return [pixels.to_image(picture) for picture in pictures]

    def run(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
        num_inference_steps: int = 1,
        guidance_scale: float = 0.0,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        latents: npt.ArrayLike | None = None,
        image: Any = None,
        strength: float = 1.0,
        callback_on_step_end: Callback | None = None,
        decode: bool = True,
    ) -> list[Generation]:
        """As calling the pipeline, but with the seed, the latents and the milliseconds of every picture.

        - seed: one for every prompt, one a prompt, or None: by chance; picture i of a prompt has seed + i
        - guidance_scale: above 1 turns classifier-free guidance, and with it `negative_prompt`, on
        - latents: f32[C, h, w] or [B, C, h, w], used in place of the seed's noise
        - image: a PIL picture or an array [H, W, 3] to start from, one for all or a list of one a picture
        - strength: with an image, above 0 (keep most of it) to 1 (forget nearly all), see `request.steps`
        - callback_on_step_end: as in diffusers, called with (pipeline, step, timestep, {"latents":
          f32[B, C, h, w]}); the latents of a dict that it returns replace them

        Raises ValueError for an argument that is not allowed, BundleError for a model that fails.
        """
        request.check_size(self.manifest, height, width)
        jobs = request.jobs(prompt, negative_prompt, guidance_scale, seed, num_images_per_prompt)
        steps = request.steps(self.manifest, num_inference_steps, strength, image is not None)
        made = [Generation(job, start) for job, start in zip(jobs, self._noises(jobs, latents), strict=True)]
        if image is not None:
            self._start_from(image, made, steps[0])
        self.open()
        texts = [self._texts_of(one) for one in made]
        for i, step in enumerate(steps):
            level = (step.alpha, step.sigma)
            after = (steps[i + 1].alpha, steps[i + 1].sigma) if i + 1 < len(steps) else schedule.CLEAN
            for one, text in zip(made, texts, strict=True):
                output = self._predicted(one, step, text, guidance_scale)
                one.latents = schedule.ddim_step(
                    one.latents, output, self.manifest.prediction_type, level, after
                )
            if callback_on_step_end is not None:
                self._call_back(callback_on_step_end, i, step.timestep, made)
        for one in made if decode else []:
            self._decode(one)
        return made

    def _noises(self, jobs: Sequence[request.Job], latents: npt.ArrayLike | None) -> list[F32]:
        """The latents before the first step, [C, h, w] each: the caller's, or each seed's noise."""
        shape = self.manifest.latent_shape
        if latents is not None:
            return request.latents(latents, len(jobs), shape)
        return [randn(job.seed, shape) for job in jobs]

    def _start_from(self, image: Any, made: Sequence[Generation], first: Step) -> None:
        """Puts the pictures' own latents, noised to the first step's level, in place of the noise."""
        if "vae_encoder" not in self._sessions:
            raise BundleError(
                f"bundle {self.manifest.name} has no vae_encoder: it cannot start from an image"
            )
        for one, start in zip(made, request.images(image, len(made)), strict=True):
            with one.timed("vae_encoder"):
                sample = pixels.from_image(start, self.manifest.image_size)[None]
                code = self._sessions["vae_encoder"].run(sample=sample)[0, : self.manifest.latent_shape[0]]
                code = code * np.float32(self.manifest.scaling_factor)
                one.latents = schedule.add_noise(code, one.latents, first.alpha, first.sigma)

    def _texts_of(self, one: Generation) -> tuple[F32, F32 | None]:
        """The embeddings of the prompt and, under guidance, of the negative prompt."""
        with one.timed("text_encoder"):
            negative = one.job.negative_prompt
            return self._embedded(one.job.prompt), None if negative is None else self._embedded(negative)

    def _embedded(self, text: str) -> F32:
        """f32[1, tokens, width], kept for the prompts used last."""
        encoding = self.tokenizer.encode(text, self.manifest.max_tokens)
        if encoding.dropped_words:
            warnings.warn(
                _dropped(encoding.dropped_words, self.manifest.max_tokens), TruncationWarning, stacklevel=2
            )
        key = encoding.ids.tobytes()
        with self._texts_lock:
            if key in self._texts:
                self._texts.move_to_end(key)
                return self._texts[key]
        embedded = self._sessions["text_encoder"].run(input_ids=encoding.ids[None])
        with self._texts_lock:
            self._texts[key] = embedded
            while len(self._texts) > _CACHED_TEXTS:
                self._texts.popitem(last=False)
        return embedded

    def _predicted(
        self, one: Generation, step: Step, text: tuple[F32, F32 | None], guidance_scale: float
    ) -> F32:
        """The U-Net's output for one picture, [C, h, w]; under guidance as Ho and Salimans 2022."""
        unet, (wanted, unwanted) = self._sessions["unet"], text
        inputs: dict[str, Any] = {"sample": one.latents[None], "timestep": step.timestep}
        with one.timed("unet"):
            output = unet.run(**inputs, encoder_hidden_states=wanted)
            if unwanted is not None:
                base = unet.run(**inputs, encoder_hidden_states=unwanted)
                output = base + np.float32(guidance_scale) * (output - base)
        first: F32 = output[0]
        return first

    def _call_back(self, callback: Callback, i: int, timestep: int, made: Sequence[Generation]) -> None:
        returned = callback(self, i, timestep, {"latents": np.stack([one.latents for one in made])})
        if returned and "latents" in returned:
            replaced = request.latents(returned["latents"], len(made), self.manifest.latent_shape)
            for one, latents in zip(made, replaced, strict=True):
                one.latents = latents

    def _decode(self, one: Generation) -> None:
        with one.timed("vae_decoder"):
            latents = one.latents[None] / np.float32(self.manifest.scaling_factor)
            one.picture = self._sessions["vae_decoder"].run(latent_sample=latents)[0]
        found, listed = one.picture.shape, (3, *self.manifest.image_size)
        if found != listed:
            what = f"made a picture of {found}, its manifest says {listed}"
            raise BundleError(f"bundle {self.manifest.name} {what}")
        if not np.isfinite(one.picture).all():
            raise BundleError(
                f"bundle {self.manifest.name} computed values that are not numbers on {self.provider}: "
                "try another provider, precision or guidance_scale"
            )


def load(
    bundle: str | Path | None = None, provider: str = "auto", *, verify: bool = True, threads: int = 0
) -> Pipeline:
    """A reusable pipeline of a bundle: a folder, or a shipped one's name; None is the default.

    verify: compare every file's sha256 with the manifest. Raises BundleError, ProviderError.
    """
    opened = open_bundle(resolve_bundle(bundle), verify=False)
    verified = Task(opened.verify) if verify else None
    try:
        return Pipeline(opened, provider, threads)
    finally:  # a damaged file is named as such, also where it stopped the pipeline
        if verified is not None:
            verified.wait()


_loaded: dict[tuple[str, str], Pipeline] = {}
_load_lock = threading.Lock()


def generate(
    prompt: str | Sequence[str], *, bundle: str | Path | None = None, provider: str = "auto", **options: Any
) -> Any:
    """One picture of a prompt; options as in calling a `Pipeline`. The bundle stays loaded for the next call.

    A list of prompts, or several pictures a prompt, give a list of pictures.
    """
    folder = resolve_bundle(bundle)
    with _load_lock:
        key = (str(folder.resolve()), provider)
        if key not in _loaded:
            _loaded[key] = load(folder, provider)
    made = _loaded[key](prompt, **options)
    return made[0] if isinstance(prompt, str) and len(made) == 1 else made


def _dropped(words: Sequence[str], max_tokens: int) -> str:
    """One line for a prompt of any length: the first words, each cut to a length that can be read."""
    named = " ".join(_shortened(word) for word in words[:_NAMED_WORDS])
    more = f" and {len(words) - _NAMED_WORDS} more" if len(words) > _NAMED_WORDS else ""
    return f"the prompt is longer than {max_tokens} tokens; dropped from its end: {named}{more}"


def _shortened(word: str) -> str:
    return word if len(word) <= _NAMED_LETTERS else word[:_NAMED_LETTERS] + "..."
