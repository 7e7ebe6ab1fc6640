"""The networks of a bundle, and what each does for one picture: encode, predict, decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import arguments, pixels, schedule
from runtime.bundle import Bundle
from runtime.cancel import CancelToken
from runtime.coreml import CoremlSession
from runtime.errors import BundleError
from runtime.generation import Generation, Plan
from runtime.manifest import Manifest, Step
from runtime.noise import randn
from runtime.ort.providers import choose_provider
from runtime.ort.session import Session
from runtime.prompt_states import Text, Texts
from runtime.safety import SafetyChecker, checked
from runtime.threads import Task
from runtime.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]
LOG_VARIANCES = -30.0, 20.0  # least and most that diffusers takes
Sessions = Mapping[str, Session | CoremlSession]  # by component
Pair = tuple[Text, Text | None]  # of the prompt and, under guidance, of the negative prompt


def components(bundle: Bundle) -> list[str]:
    """The networks that a bundle has."""
    known = bundle.manifest.conditioning.components
    return [part for part in known if f"{part}/model.onnx" in bundle.manifest.files]


def onnx_sessions(bundle: Bundle, provider: str, threads: int, keep_graphs: bool) -> dict[str, Session]:
    """A session for each network, not opened yet; arguments as in `Pipeline`. Raises BundleError, ProviderError."""
    chosen, conditioning = choose_provider(provider), bundle.manifest.conditioning
    prints = {part: bundle.fingerprint(part) if keep_graphs else "" for part in components(bundle)}
    return {
        part: Session(part, bundle.model(part), chosen, threads, print_, conditioning)
        for part, print_ in prints.items()
    }


def tokenizers(bundle: Bundle) -> list[Tokenizer]:
    """The tokenizer of each text encoder. Raises BundleError."""
    manifest, folder = bundle.manifest, bundle.folder
    names = [one.tokenizer for one in manifest.conditioning.text_encoders]
    return [Tokenizer.from_folder(folder / name, manifest.tokens(name)) for name in names]


class Networks:
    """A bundle's sessions. Every method may be called from any thread, and computes one picture's part."""

    def __init__(self, manifest: Manifest, tokenizers: Sequence[Tokenizer], sessions: Sessions) -> None:
        """sessions: of the manifest's components; the encoder of images may be missing."""
        self.manifest, self.sessions = manifest, sessions
        encoders = [sessions[one.component] for one in manifest.conditioning.text_encoders]
        self._texts = Texts(list(zip(tokenizers, encoders, strict=True)), manifest.max_tokens)

    @property
    def provider(self) -> str:
        """The execution provider in use: cpu, cuda, coreml or openvino."""
        return self.sessions["unet"].provider

    def open(self) -> None:
        """Opens the graphs that every call needs, in parallel."""
        first, *others = [self.sessions[stage] for stage in self.manifest.conditioning.required]
        tasks = [Task(session.open) for session in others if not session.is_open]
        first.open()
        for task in tasks:
            task.wait()

    def close(self) -> None:
        """Frees the graphs' memory and forgets the prompts."""
        for session in self.sessions.values():
            session.close()
        self._texts.clear()

    def encode_image(self, image: Any, cancel: CancelToken | None = None, size: tuple[int, int] | None = None) -> F32:
        """A picture's latents, f32[C, h, w], scaled as the U-Net sees them. Raises ValueError, BundleError.

        size: (height, width) that the picture is brought to; None is the bundle's own.
        """
        return self._scaled(self._code(image, cancel, size or self.manifest.image_size)[0])

    def _code(self, image: Any, cancel: CancelToken | None, size: tuple[int, int]) -> tuple[F32, F32 | None]:
        """A picture's latents before they are scaled, and of a variational encoder their standard deviations."""
        if "vae_encoder" not in self.sessions:
            raise BundleError(f"bundle {self.manifest.name} has no vae_encoder: it cannot start from an image")
        sample, channels = pixels.from_image(image, size)[None], self.manifest.latent_shape[0]
        given = self.sessions["vae_encoder"].run(cancel=cancel, sample=sample)[0]
        spread = np.exp(np.clip(given[channels:], *LOG_VARIANCES) / 2) if len(given) == 2 * channels else None
        return given[:channels], spread

    def _scaled(self, code: F32) -> F32:
        return np.multiply(code, np.float32(self.manifest.scaling_factor), dtype=np.float32)

    def start_from(self, image: Any, plan: Plan, cancel: CancelToken | None) -> None:
        """Replaces the noise with the pictures' own latents, noised to the first step's level."""
        shape, first = self.manifest.latents_of(plan.size), plan.steps[0]
        for one, start in zip(plan.made, arguments.images(image, len(plan.made), shape), strict=True):
            with one.timed("vae_encoder"):
                code = start if arguments.is_latents(start, shape) else self._draw_code(one, start, plan, cancel)
                one.latents = schedule.add_noise(code, one.latents, first.alpha, first.sigma)

    def _draw_code(self, one: Generation, image: Any, plan: Plan, cancel: CancelToken | None) -> F32:
        """A start picture's latents, scaled.

        As in diffusers, those of a variational encoder are drawn: the generator's first normals are for that, and the
        run's own noise comes after them.
        """
        code, spread = self._code(image, cancel, plan.size)
        if spread is not None:
            code = code + spread * randn(one.seed, code.shape)
            one.drawn = 1
            if not plan.noise_given:
                one.latents = randn(one.seed, code.shape, one.drawn)
        return self._scaled(code)

    def fits(self, prompt: str) -> bool:
        """Whether the text encoders read the whole of a prompt."""
        return self._texts.fits(prompt)

    def encode_prompt(self, prompt: str, cancel: CancelToken | None = None) -> Text:
        """What the text encoders give. Do not write to its arrays."""
        return self._texts.encode(prompt, cancel)

    def encode_text(self, one: Generation, states: F32 | None, pooled: F32 | None, cancel: CancelToken | None) -> Pair:
        """A picture's prompt, or the caller's own states and pooled text, and under guidance its negative prompt."""
        with one.timed("text_encoder"):
            self._check_width("prompt_embeds", states, "encoder_hidden_states")
            self._check_width("pooled_prompt_embeds", pooled, "text_embeds")
            own = None if states is None else Text(states[None], None if pooled is None else pooled[None])
            wanted = own or self.encode_prompt(one.prompt, cancel)
            if not one.job.guided:
                return wanted, None
            negative = one.job.negative_prompt
            if negative is None and self.manifest.conditioning.zeros_without_negative_prompt:
                return wanted, wanted.zeros()
            return wanted, self.encode_prompt(negative or "", cancel)

    def _check_width(self, name: str, given: F32 | None, port: str) -> None:
        """ValueError where the caller's text is not as wide as the U-Net takes it."""
        wanted = None if given is None else self.sessions["unet"].width_of(port)
        if given is not None and wanted is not None and given.shape[-1] != wanted:
            raise ValueError(
                f"{name} must be {wanted} wide for bundle {self.manifest.name}, not {given.shape[-1]}: give what its "
                "own encoders give"
            )

    def predict(
        self, one: Generation, step: Step, text: Pair, guidance_scale: float, cancel: CancelToken | None
    ) -> F32:
        """The U-Net's output, f32[C, h, w]; under guidance as Ho and Salimans 2022."""
        unet, (wanted, unwanted) = self.sessions["unet"], text
        inputs: dict[str, Any] = {"sample": one.latents[None], "timestep": step.timestep}
        sizes = self.manifest.conditioning.sizes(self.manifest.pixels_of(one.latents.shape))
        with one.timed("unet"):
            output = unet.run(cancel=cancel, **inputs, **wanted.inputs(sizes))
            if unwanted is not None:
                base = unet.run(cancel=cancel, **inputs, **unwanted.inputs(sizes))
                output = base + np.float32(guidance_scale) * (output - base)
        first: F32 = output[0]
        self._check_shape("latents", first.shape, one.latents.shape)
        return first

    def decode(self, one: Generation, safety_checker: SafetyChecker | None, cancel: CancelToken | None) -> None:
        """The latents' picture, looked at by the safety checker. Raises BundleError when it is not a picture."""
        with one.timed("vae_decoder"):
            latents = one.latents[None] / np.float32(self.manifest.scaling_factor)
            one.picture = self.sessions["vae_decoder"].run(cancel=cancel, latent_sample=latents)[0]
        self._check_shape("a picture", one.picture.shape, (3, *self.manifest.pixels_of(one.latents.shape)))
        self._check_picture(one.picture)
        if safety_checker is not None:
            with one.timed("safety_checker"):
                one.picture, one.nsfw = checked(safety_checker, one.picture)

    def _check_shape(self, what: str, found: tuple[int, ...], listed: tuple[int, ...]) -> None:
        if found != listed:
            raise BundleError(f"bundle {self.manifest.name} made {what} of {found}, its manifest says {listed}")

    def _check_picture(self, picture: F32) -> None:
        if not np.isfinite(picture).all():
            raise BundleError(
                f"bundle {self.manifest.name} computed values that are not numbers on {self.provider}: "
                "try another provider, precision or guidance_scale"
            )
