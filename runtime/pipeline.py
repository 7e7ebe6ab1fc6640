"""Tokens -> text -> latents -> picture: a loaded bundle, and `generate` for a single call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import arguments, coreml, generation, pixels, schedule
from runtime.bundle import Bundle, open_bundle, resolve_bundle
from runtime.cancel import CancelToken
from runtime.coreml import CoremlSession
from runtime.errors import BundleError
from runtime.generation import Callback, Generation
from runtime.manifest import REQUIRED, Manifest, Step
from runtime.noise import randn
from runtime.ort.providers import choose_provider
from runtime.ort.session import INPUTS, Session
from runtime.prompt_states import Texts
from runtime.safety import SafetyChecker, checked
from runtime.stream import Stream
from runtime.threads import Task
from runtime.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]


class Pipeline:
    """A loaded bundle. Call it from any number of threads; the same arguments give the same pictures.

    Pictures of one call are computed one by one: a picture does not depend on its neighbours. `with` closes it.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str = "auto",
        threads: int = 0,
        safety_checker: SafetyChecker | None = None,
        coreml_packages: str | Path | None = None,
        compute_unit: str = "CPU_AND_NE",
        keep_graphs: bool = False,
    ) -> None:
        """Arguments as in `load`, which explains them.

        keep_graphs: in the cache, for the next start; only of a bundle that was verified, since entries go by its
        listed hashes, and another's could be listed.
        """
        self.bundle, self.safety_checker = bundle, safety_checker
        self.tokenizer = Tokenizer.from_folder(bundle.folder / "tokenizer")
        present = [part for part in INPUTS if f"{part}/model.onnx" in bundle.manifest.files]
        self._sessions: dict[str, Session | CoremlSession] = {}
        self._prediction_type = bundle.manifest.prediction_type
        if coreml_packages is not None:
            self._sessions |= coreml.sessions(Path(coreml_packages), bundle.manifest, present, compute_unit)
            self._prediction_type = coreml.PREDICTION_TYPE
        else:
            chosen = choose_provider(provider)
            for part in present:
                known = bundle.fingerprint(part) if keep_graphs else ""
                self._sessions[part] = Session(part, bundle.model(part), chosen, threads, known)
        self._texts = Texts(self.tokenizer, self._sessions["text_encoder"], bundle.manifest.max_tokens)

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
        first, *others = [self._sessions[stage] for stage in REQUIRED]
        tasks = [Task(session.open) for session in others if not session.is_open]
        first.open()
        for task in tasks:
            task.wait()

    def close(self) -> None:
        """Frees the graphs' memory. Calls at work end as usual; later ones raise ClosedError."""
        for session in self._sessions.values():
            session.close()
        self._texts.clear()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        output_type: str = "pil",
        **options: Unpack[generation.Options],
    ) -> list[Image.Image] | F32:
        """Pictures for one prompt or several, in the order of the prompts; arguments as in `run`.

        output_type: "pil" a list of pictures, "np" f32[B, H, W, 3] in [0, 1], "latent" f32[B, C, h, w].
        """
        arguments.check_output_type(output_type)
        made = self.run(prompt, decode=output_type != "latent", **options)
        if output_type == "latent":
            return np.stack([one.latents for one in made])
        pictures = [one.picture for one in made if one.picture is not None]
        if output_type == "np":
            return np.stack([pixels.to_unit(picture).transpose(1, 2, 0) for picture in pictures])
        return [pixels.to_image(picture) for picture in pictures]

    def run(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: npt.ArrayLike | None = None,
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
        cancel: CancelToken | None = None,
        decode: bool = True,
    ) -> list[Generation]:
        """As calling the pipeline, but with the seed, the latents and the milliseconds of every picture.

        - prompt_embeds: in place of prompts, as `encode_prompt` gives them: f32[tokens, width] or [B, tokens, width]
        - seed: one for every prompt, one a prompt, or None: by chance; picture i of a prompt has seed + i
        - guidance_scale: above 1 turns classifier-free guidance, and with it `negative_prompt`, on
        - latents: f32[C, h, w] or [B, C, h, w], used in place of the seed's noise
        - image: a PIL picture, an array [H, W, 3] or latents f32[C, h, w] as `encode` gives them, to start from; one
          for all or a list of one a picture
        - strength: with an image, above 0 (keep most of it) to 1 (forget nearly all), see `request.steps`
        - callback_on_step_end: as in diffusers, called with (pipeline, step, timestep, {"latents":
          f32[B, C, h, w]}); the latents of a dict that it returns replace them
        - cancel: a CancelToken by which another thread can stop the call

        Raises ValueError for an argument that is not allowed, BundleError for a model that fails, Cancelled,
        ClosedError.
        """
        arguments.check_size(self.manifest, height, width)
        given = arguments.embeds(prompt, prompt_embeds, self.manifest.max_tokens)
        prompt = [""] * len(given) if given else arguments.prompts(prompt)
        jobs = arguments.jobs(prompt, negative_prompt, guidance_scale, seed, num_images_per_prompt)
        steps = arguments.steps(self.manifest, num_inference_steps, strength, image is not None)
        made = [Generation(job, start) for job, start in zip(jobs, self._noises(jobs, latents), strict=True)]
        self.open()
        if image is not None:
            self._start_from(image, made, steps[0], cancel)
        wanted: list[F32 | None] = [states for states in given for _ in range(num_images_per_prompt)]
        wanted = wanted or [None] * len(made)
        texts = [self._texts_of(one, states, cancel) for one, states in zip(made, wanted, strict=True)]
        for i, step in enumerate(steps):
            level = (step.alpha, step.sigma)
            after = (steps[i + 1].alpha, steps[i + 1].sigma) if i + 1 < len(steps) else schedule.CLEAN
            for one, text in zip(made, texts, strict=True):
                output = self._predicted(one, step, text, guidance_scale, cancel)
                one.latents = schedule.ddim_step(one.latents, output, self._prediction_type, level, after)
            if callback_on_step_end is not None:
                self._call_back(callback_on_step_end, i, step.timestep, made)
        for one in made if decode else []:
            self._decode(one, cancel)
        return made

    def stream(
        self,
        prompts: str | Iterable[str],
        *,
        images: Iterable[Any] | None = None,
        **options: Unpack[generation.Options],
    ) -> Stream:
        """Pictures one after another, as they are made: iterate over what it returns, `cancel()` it from anywhere.

        prompts: any iterable, read one ahead of need, or one prompt for every one of `images`, frames to start from.
        options as in `run`; a seed is the same for every picture.
        """
        return Stream(self.run, prompts, images, dict(options))

    def encode(self, image: Any, cancel: CancelToken | None = None) -> F32:
        """A picture's latents, f32[C, h, w], scaled as the U-Net sees them. Raises ValueError, BundleError."""
        if "vae_encoder" not in self._sessions:
            raise BundleError(f"bundle {self.manifest.name} has no vae_encoder: it cannot start from an image")
        sample = pixels.from_image(image, self.manifest.image_size)[None]
        code = self._sessions["vae_encoder"].run(cancel=cancel, sample=sample)[0, : self.manifest.latent_shape[0]]
        scaled: F32 = np.multiply(code, np.float32(self.manifest.scaling_factor), dtype=np.float32)
        return scaled

    def encode_prompt(self, prompt: str, cancel: CancelToken | None = None) -> F32:
        """The text encoder's states of a prompt, f32[tokens, width], for `prompt_embeds`."""
        states: F32 = self._texts.states(prompt, cancel)[0].copy()
        return states

    def _noises(self, jobs: Sequence[generation.Job], latents: npt.ArrayLike | None) -> list[F32]:
        """The latents before the first step, [C, h, w] each: the caller's, or each seed's noise."""
        shape = self.manifest.latent_shape
        if latents is not None:
            return arguments.latents(latents, len(jobs), shape)
        return [randn(job.seed, shape) for job in jobs]

    def _start_from(self, image: Any, made: Sequence[Generation], first: Step, cancel: CancelToken | None) -> None:
        """Puts the pictures' own latents, noised to the first step's level, in place of the noise."""
        shape = self.manifest.latent_shape
        for one, start in zip(made, arguments.images(image, len(made), shape), strict=True):
            with one.timed("vae_encoder"):
                code = start if arguments.is_latents(start, shape) else self.encode(start, cancel)
                one.latents = schedule.add_noise(code, one.latents, first.alpha, first.sigma)

    def _texts_of(self, one: Generation, states: F32 | None, cancel: CancelToken | None) -> tuple[F32, F32 | None]:
        """The states of the prompt (or the caller's own) and, under guidance, of the negative prompt."""
        with one.timed("text_encoder"):
            negative = one.job.negative_prompt
            wanted = self._texts.states(one.job.prompt, cancel) if states is None else states[None]
            return wanted, None if negative is None else self._texts.states(negative, cancel)

    def _predicted(
        self,
        one: Generation,
        step: Step,
        text: tuple[F32, F32 | None],
        guidance_scale: float,
        cancel: CancelToken | None,
    ) -> F32:
        """The U-Net's output for one picture, [C, h, w]; under guidance as Ho and Salimans 2022."""
        unet, (wanted, unwanted) = self._sessions["unet"], text
        inputs: dict[str, Any] = {"sample": one.latents[None], "timestep": step.timestep}
        with one.timed("unet"):
            output = unet.run(cancel=cancel, **inputs, encoder_hidden_states=wanted)
            if unwanted is not None:
                base = unet.run(cancel=cancel, **inputs, encoder_hidden_states=unwanted)
                output = base + np.float32(guidance_scale) * (output - base)
        first: F32 = output[0]
        return first

    def _call_back(self, callback: Callback, i: int, timestep: int, made: Sequence[Generation]) -> None:
        returned = callback(self, i, timestep, {"latents": np.stack([one.latents for one in made])})
        if returned and "latents" in returned:
            replaced = arguments.latents(returned["latents"], len(made), self.manifest.latent_shape)
            for one, latents in zip(made, replaced, strict=True):
                one.latents = latents

    def _decode(self, one: Generation, cancel: CancelToken | None) -> None:
        with one.timed("vae_decoder"):
            latents = one.latents[None] / np.float32(self.manifest.scaling_factor)
            one.picture = self._sessions["vae_decoder"].run(cancel=cancel, latent_sample=latents)[0]
        found, listed = one.picture.shape, (3, *self.manifest.image_size)
        if found != listed:
            what = f"made a picture of {found}, its manifest says {listed}"
            raise BundleError(f"bundle {self.manifest.name} {what}")
        if not np.isfinite(one.picture).all():
            raise BundleError(
                f"bundle {self.manifest.name} computed values that are not numbers on {self.provider}: "
                "try another provider, precision or guidance_scale"
            )
        if self.safety_checker is not None:
            with one.timed("safety_checker"):
                one.picture, one.nsfw = checked(self.safety_checker, one.picture)


def load(
    bundle: str | Path | None = None,
    provider: str = "auto",
    *,
    verify: bool = True,
    threads: int = 0,
    safety_checker: SafetyChecker | None = None,
    coreml_packages: str | Path | None = None,
    compute_unit: str = "CPU_AND_NE",
) -> Pipeline:
    """A reusable pipeline of a bundle: a folder, or a shipped one's name; None is the default.

    - provider: auto, cpu, cuda, coreml or openvino, see `runtime.ort.providers`
    - verify: compare every file's sha256 with the manifest
    - threads: of an operator, 0: ONNX Runtime's choice
    - safety_checker: see `runtime.safety`
    - coreml_packages: a folder of `python -m export.coreml` of the same checkpoint, which Core ML then computes on
      `compute_unit` (ALL, CPU_AND_NE, CPU_AND_GPU, CPU_ONLY) in place of the bundle's graphs; macOS, coremltools

    Raises BundleError, ProviderError.
    """
    opened = open_bundle(resolve_bundle(bundle), verify=False)
    verified = Task(opened.verify) if verify else None
    try:
        return Pipeline(opened, provider, threads, safety_checker, coreml_packages, compute_unit, keep_graphs=verify)
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


def _after_fork() -> None:
    global _load_lock  # noqa: PLW0603 (the parent may have held the old one)
    _load_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
