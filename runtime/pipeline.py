"""Tokens -> text -> latents -> picture: a loaded bundle, and `generate` for a single call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import arguments, coreml, generation
from runtime.bundle import Bundle, open_bundle, resolve_bundle
from runtime.cancel import CancelToken, check_token
from runtime.generation import Callback, Generation, Images, OutputType, Plan, Seeds
from runtime.manifest import Manifest
from runtime.networks import Networks, Pair, Sessions, components, onnx_sessions, tokenizers
from runtime.noise import check_seed
from runtime.safety import SafetyChecker
from runtime.sampler import Memory, weighed
from runtime.stream import Stream
from runtime.threads import Task
from runtime.tokenizer import Tokenizer
from runtime.variation.choice import AUTO, Choice, check_choice, completed

F32 = npt.NDArray[np.float32]
Texts = str | Sequence[str]


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

        keep_graphs: in the cache, for the next start; only of a verified bundle, since entries are named by its listed
        hashes, which could be another's.
        """
        self.bundle, self.safety_checker = bundle, safety_checker
        of_encoders = tokenizers(bundle)
        self.tokenizer: Tokenizer = of_encoders[0]
        sessions: Sessions
        self._predicts: str | None
        if coreml_packages is None:
            self._predicts = None
            sessions = onnx_sessions(bundle, provider, threads, keep_graphs)
        else:
            self._predicts = "epsilon"  # as Apple's pipelines expect it
            bundle = replace(bundle, manifest=replace(bundle.manifest, sizes=()))  # packages have one size
            self.bundle = bundle
            sessions = coreml.sessions(Path(coreml_packages), bundle.manifest, components(bundle), compute_unit)
        self._networks = Networks(bundle.manifest, of_encoders, sessions)

    @property
    def manifest(self) -> Manifest:
        """The bundle's facts."""
        return self.bundle.manifest

    @property
    def provider(self) -> str:
        """The execution provider in use: cpu, cuda, coreml or openvino."""
        return self._networks.provider

    def open(self) -> None:
        """Opens the graphs that every call needs, in parallel; otherwise the first call does so."""
        self._networks.open()

    def close(self) -> None:
        """Frees the graphs' memory. Calls at work end as usual; later ones raise ClosedError."""
        self._networks.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.manifest.image_size
        return f"<Pipeline {self.manifest.name}, {width}x{height}, on {self.provider}>"

    # fmt: off
    @overload
    def __call__(self, prompt: Texts | None = None, *,
        output_type: Literal["pil"] = "pil", negative_prompt: Texts | None = None,
        prompt_embeds: npt.ArrayLike | None = None, pooled_prompt_embeds: npt.ArrayLike | None = None,
        seed: Seeds | None = None, generator: Any = None,
        variation: Choice = AUTO,
        num_inference_steps: int = 1, guidance_scale: float = 0.0, num_images_per_prompt: int = 1,
        height: int | None = None, width: int | None = None, latents: npt.ArrayLike | None = None, image: Any = None,
        strength: float | None = None, callback_on_step_end: Callback | None = None, cancel: CancelToken | None = None,
        watermark: bool | None = None,
    ) -> Images: ...
    @overload
    def __call__(self, prompt: Texts | None = None, *,
        output_type: Literal["np", "latent"], negative_prompt: Texts | None = None,
        prompt_embeds: npt.ArrayLike | None = None, pooled_prompt_embeds: npt.ArrayLike | None = None,
        seed: Seeds | None = None, generator: Any = None,
        variation: Choice = AUTO,
        num_inference_steps: int = 1, guidance_scale: float = 0.0, num_images_per_prompt: int = 1,
        height: int | None = None, width: int | None = None, latents: npt.ArrayLike | None = None, image: Any = None,
        strength: float | None = None, callback_on_step_end: Callback | None = None, cancel: CancelToken | None = None,
        watermark: bool | None = None,
    ) -> F32: ...
    # fmt: on
    def __call__(
        self,
        prompt: Texts | None = None,
        *,
        output_type: OutputType = "pil",
        negative_prompt: Texts | None = None,
        prompt_embeds: npt.ArrayLike | None = None,
        pooled_prompt_embeds: npt.ArrayLike | None = None,
        seed: Seeds | None = None,
        generator: Any = None,
        variation: Choice = AUTO,
        num_inference_steps: int = 1,
        guidance_scale: float = 0.0,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        latents: npt.ArrayLike | None = None,
        image: Any = None,
        strength: float | None = None,
        callback_on_step_end: Callback | None = None,
        cancel: CancelToken | None = None,
        watermark: bool | None = None,
    ) -> Images | F32:
        """Pictures for one prompt or several, in the order of the prompts; arguments and errors as in `run`.

        output_type: "pil" a list of pictures, which answers `.images` as diffusers' results do; "np" f32[B, H, W, 3]
        in [0, 1] and "latent" f32[B, C, h, w], plain arrays.
        """
        arguments.check_output_type(output_type)
        made = self.run(
            prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            seed=seed,
            generator=generator,
            variation=variation,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            height=height,
            width=width,
            latents=latents,
            image=image,
            strength=strength,
            callback_on_step_end=callback_on_step_end,
            cancel=cancel,
            watermark=watermark,
            decode=output_type != "latent",
        )
        if output_type == "latent":
            return np.stack([one.latents for one in made])
        if output_type == "np":
            return np.stack([one.unit() for one in made])
        return Images(made)

    def run(
        self,
        prompt: Texts | None = None,
        *,
        negative_prompt: Texts | None = None,
        prompt_embeds: npt.ArrayLike | None = None,
        pooled_prompt_embeds: npt.ArrayLike | None = None,
        seed: Seeds | None = None,
        generator: Any = None,
        variation: Choice = AUTO,
        num_inference_steps: int = 1,
        guidance_scale: float = 0.0,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        latents: npt.ArrayLike | None = None,
        image: Any = None,
        strength: float | None = None,
        callback_on_step_end: Callback | None = None,
        cancel: CancelToken | None = None,
        watermark: bool | None = None,
        decode: bool = True,
    ) -> list[Generation]:
        """Like calling the pipeline, but with the seed, the latents and the milliseconds of every picture.

        - prompt_embeds: instead of prompts, as `encode_prompt` gives them: f32[tokens, width] or [B, tokens, width]
        - pooled_prompt_embeds: with prompt_embeds where the U-Net takes pooled text (SDXL), as `encode_pooled_prompt`
          gives it: f32[width] or [B, width]
        - seed: one for every prompt, or one per prompt (a list, a range, a numpy array); None: a random one; picture i
          of a prompt has seed + i
        - generator: instead of a seed, for code written for diffusers: a torch.Generator of the CPU, or a list of one
          per prompt. Its `initial_seed()` counts, not what was drawn from it since; where one serves several pictures
          only the first is the same as in diffusers, which goes on drawing for the others
        - variation: "auto" completes each prompt, by its picture's seed, with words for what it leaves open, where the
          bundle has a table of them: `Generation.prompt` is the completed one, `typed_prompt` the other; None draws
          prompts as they are typed; {property: word} chooses some of the words. Negative prompts stay as they are
        - guidance_scale: above 1 turns classifier-free guidance, and with it `negative_prompt`, on
        - height, width: one of the sizes that the bundle's manifest lists; None is its `image_size`
        - latents: f32[C, h, w] or [B, C, h, w], used instead of the seed's noise
        - image: a PIL picture, an array [H, W, 3] or latents f32[C, h, w] as `encode` gives them, to start from; one
          for all or a list of one per picture
        - strength: with an image, above 0 (keep most of it) to 1 (forget nearly all), see `arguments.steps`; None is
          diffusers' 0.8
        - callback_on_step_end: as in diffusers, called with (pipeline, step, timestep, {"latents":
          f32[B, C, h, w]}); the latents of a dict that it returns replace them
        - cancel: a CancelToken by which another thread can stop the call
        - watermark: True puts an invisible mark that names the bundle into the pictures, False leaves it out; None
          marks those of 512 pixels and larger. `Generation.picture` and latents are never marked

        Raises ValueError for an argument that is not allowed, BundleError for a model that fails, MemoryLimitError,
        Cancelled, ClosedError.
        """
        check_token(cancel)
        arguments.check_watermark(watermark)
        arguments.check_callback(callback_on_step_end)
        plan = arguments.plan(
            self.manifest,
            fits=self._networks.fits,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            seed=seed,
            generator=generator,
            variation=variation,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            height=height,
            width=width,
            latents=latents,
            image_given=image is not None,
            strength=strength,
        )
        self.open()
        if image is not None:
            self._networks.start_from(image, plan, cancel)
        given = zip(plan.made, plan.states, plan.pooled, strict=True)
        texts = [self._networks.encode_text(one, states, pooled, cancel) for one, states, pooled in given]
        self._denoise(plan, texts, callback_on_step_end, cancel)
        for one in plan.made if decode else []:
            self._networks.decode(one, self.safety_checker, cancel)
            one.mark = self._mark(one, watermark)
        return plan.made

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

    def encode(
        self, image: Any, cancel: CancelToken | None = None, *, height: int | None = None, width: int | None = None
    ) -> F32:
        """A picture's latents, f32[C, h, w], scaled as the U-Net sees them. Raises ValueError, BundleError.

        height, width: that the picture is brought to, as in `run`.
        """
        check_token(cancel)
        return self._networks.encode_image(image, cancel, arguments.check_size(self.manifest, height, width))

    def encode_prompt(self, prompt: str, cancel: CancelToken | None = None) -> F32:
        """The text encoder's states of a prompt, f32[tokens, width], for `prompt_embeds`."""
        check_token(cancel)
        states: F32 = self._networks.encode_prompt(arguments.one_prompt(prompt), cancel).states[0].copy()
        return states

    def complete(self, prompt: str, seed: int, variation: Choice = AUTO) -> str:
        """The prompt that a picture of this seed shows, `Generation.prompt`. Arguments and errors as in `run`."""
        manifest, choice, seed = self.manifest, check_choice(variation), check_seed(seed)
        return completed(
            manifest.variation, choice, arguments.one_prompt(prompt), seed, self._networks.fits, manifest.name
        )

    def encode_pooled_prompt(self, prompt: str, cancel: CancelToken | None = None) -> F32 | None:
        """The text as one row, f32[width], for `pooled_prompt_embeds`; None where the U-Net takes none."""
        check_token(cancel)
        pooled = self._networks.encode_prompt(arguments.one_prompt(prompt), cancel).pooled
        return None if pooled is None else pooled[0].copy()

    def _mark(self, one: Generation, wanted: bool | None) -> int | None:
        """The code to mark a picture with, or None."""
        from runtime.watermark import LEAST_SIDE, code_of

        large = one.picture is not None and min(one.picture.shape[1:]) >= LEAST_SIDE
        return code_of(self.manifest) if wanted or (wanted is None and large) else None

    def _denoise(
        self, plan: Plan, texts: Sequence[Pair], callback: Callback | None, cancel: CancelToken | None
    ) -> None:
        """All steps, each for every picture before the next."""
        memories = [Memory() for _ in plan.made]
        for i, step in enumerate(plan.steps):
            for one, text, memory in zip(plan.made, texts, memories, strict=True):
                output = self._networks.predict(one, step, text, plan.guidance_scale, cancel)
                output = weighed(step, one.latents, output, self._predicts, self.manifest.prediction_type)
                one.latents = memory.step(step, one.latents, output, one.seed, one.drawn)
            if callback is not None:
                self._call_back(callback, i, step.timestep, plan.made)

    def _call_back(self, callback: Callback, i: int, timestep: float, made: Sequence[Generation]) -> None:
        returned = callback(self, i, timestep, {"latents": np.stack([one.latents for one in made])})
        if returned is None:
            return
        if not isinstance(returned, Mapping):
            raise ValueError(f"callback_on_step_end must return None or a dict, not {type(returned).__name__}")
        if "latents" in returned:
            replaced = arguments.latents(returned["latents"], len(made), made[0].latents.shape)
            for one, latents in zip(made, replaced, strict=True):
                one.latents = latents


def load(
    bundle: str | Path | None = None,
    provider: str = "auto",
    *,
    verify: bool | str | Path = True,
    threads: int = 0,
    safety_checker: SafetyChecker | None = None,
    coreml_packages: str | Path | None = None,
    compute_unit: str = "CPU_AND_NE",
) -> Pipeline:
    """A reusable pipeline of a bundle: a folder, or a shipped one's name; None is the default.

    - provider: auto, cpu, cuda, coreml or openvino, see `runtime.ort.providers`
    - verify: compare every file's sha256 with the manifest; a PEM file with a public key: also require that the key's
      owner signed the bundle, see `runtime.signature`
    - threads: per operator, 0: ONNX Runtime's choice
    - safety_checker: see `runtime.safety`
    - coreml_packages: a folder of `python -m export.coreml` of the same checkpoint, which Core ML then computes on
      `compute_unit` (ALL, CPU_AND_NE, CPU_AND_GPU, CPU_ONLY) in place of the bundle's graphs; macOS, coremltools

    Raises BundleError, ProviderError.
    """
    opened = open_bundle(resolve_bundle(bundle), verify=False)
    if isinstance(verify, (str, Path)):
        from runtime.signature.bundle import check_signature

        check_signature(opened, verify)
        verify = True
    hashes = bool(verify)
    verified = Task(opened.verify) if hashes else None
    try:
        return Pipeline(opened, provider, threads, safety_checker, coreml_packages, compute_unit, keep_graphs=hashes)
    finally:  # a damaged file is named as such, also where it stopped the pipeline
        if verified is not None:
            verified.wait()


_loaded: dict[tuple[str, str], Pipeline] = {}
_load_lock = threading.Lock()


# fmt: off
@overload
def generate(prompt: str, *, bundle: str | Path | None = None, provider: str = "auto",
    output_type: Literal["pil"] = "pil", negative_prompt: Texts | None = None,
    prompt_embeds: npt.ArrayLike | None = None, pooled_prompt_embeds: npt.ArrayLike | None = None,
    seed: Seeds | None = None, generator: Any = None,
    variation: Choice = AUTO,
    num_inference_steps: int = 1, guidance_scale: float = 0.0, num_images_per_prompt: Literal[1] = 1,
    height: int | None = None, width: int | None = None, latents: npt.ArrayLike | None = None, image: Any = None,
    strength: float | None = None, callback_on_step_end: Callback | None = None, cancel: CancelToken | None = None,
    watermark: bool | None = None,
) -> Image.Image: ...
@overload
def generate(prompt: str, *, bundle: str | Path | None = None, provider: str = "auto",
    output_type: Literal["pil"] = "pil", negative_prompt: Texts | None = None,
    prompt_embeds: npt.ArrayLike | None = None, pooled_prompt_embeds: npt.ArrayLike | None = None,
    seed: Seeds | None = None, generator: Any = None,
    variation: Choice = AUTO,
    num_inference_steps: int = 1, guidance_scale: float = 0.0, num_images_per_prompt: int = 1,
    height: int | None = None, width: int | None = None, latents: npt.ArrayLike | None = None, image: Any = None,
    strength: float | None = None, callback_on_step_end: Callback | None = None, cancel: CancelToken | None = None,
    watermark: bool | None = None,
) -> Image.Image | Images: ...
@overload
def generate(prompt: list[str] | tuple[str, ...], *, bundle: str | Path | None = None, provider: str = "auto",
    output_type: Literal["pil"] = "pil", negative_prompt: Texts | None = None,
    prompt_embeds: npt.ArrayLike | None = None, pooled_prompt_embeds: npt.ArrayLike | None = None,
    seed: Seeds | None = None, generator: Any = None,
    variation: Choice = AUTO,
    num_inference_steps: int = 1, guidance_scale: float = 0.0, num_images_per_prompt: int = 1,
    height: int | None = None, width: int | None = None, latents: npt.ArrayLike | None = None, image: Any = None,
    strength: float | None = None, callback_on_step_end: Callback | None = None, cancel: CancelToken | None = None,
    watermark: bool | None = None,
) -> Images: ...
@overload
def generate(prompt: Texts, *, bundle: str | Path | None = None, provider: str = "auto",
    output_type: Literal["np", "latent"], negative_prompt: Texts | None = None,
    prompt_embeds: npt.ArrayLike | None = None, pooled_prompt_embeds: npt.ArrayLike | None = None,
    seed: Seeds | None = None, generator: Any = None,
    variation: Choice = AUTO,
    num_inference_steps: int = 1, guidance_scale: float = 0.0, num_images_per_prompt: int = 1,
    height: int | None = None, width: int | None = None, latents: npt.ArrayLike | None = None, image: Any = None,
    strength: float | None = None, callback_on_step_end: Callback | None = None, cancel: CancelToken | None = None,
    watermark: bool | None = None,
) -> F32: ...
# fmt: on
def generate(
    prompt: Texts,
    *,
    bundle: str | Path | None = None,
    provider: str = "auto",
    output_type: OutputType = "pil",
    negative_prompt: Texts | None = None,
    prompt_embeds: npt.ArrayLike | None = None,
    pooled_prompt_embeds: npt.ArrayLike | None = None,
    seed: Seeds | None = None,
    generator: Any = None,
    variation: Choice = AUTO,
    num_inference_steps: int = 1,
    guidance_scale: float = 0.0,
    num_images_per_prompt: int = 1,
    height: int | None = None,
    width: int | None = None,
    latents: npt.ArrayLike | None = None,
    image: Any = None,
    strength: float | None = None,
    callback_on_step_end: Callback | None = None,
    cancel: CancelToken | None = None,
    watermark: bool | None = None,
) -> Image.Image | Images | F32:
    """One picture of a prompt. The bundle stays loaded for the next call, until the process ends.

    A list of prompts, or several pictures per prompt, give a list of pictures. bundle, provider: as in `load`; the
    others as when calling a `Pipeline`. Raises what these two raise.
    """
    folder = resolve_bundle(bundle)
    with _load_lock:
        key = (str(folder.resolve()), provider)
        if key not in _loaded:
            _loaded[key] = load(folder, provider)
    made = _loaded[key](
        prompt,
        output_type=output_type,
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled_prompt_embeds,
        negative_prompt=negative_prompt,
        seed=seed,
        generator=generator,
        variation=variation,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        num_images_per_prompt=num_images_per_prompt,
        height=height,
        width=width,
        latents=latents,
        image=image,
        strength=strength,
        callback_on_step_end=callback_on_step_end,
        cancel=cancel,
        watermark=watermark,
    )
    return made[0] if isinstance(prompt, str) and len(made) == 1 else made


def _after_fork() -> None:
    global _load_lock  # noqa: PLW0603 (the parent may have held the old one)
    _load_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
