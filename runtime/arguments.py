"""The arguments of one call, checked and expanded: one job per picture, and the steps to take."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.generation import Generation, Job, Plan, Seeds
from runtime.manifest import Manifest, Step
from runtime.noise import check_seed, randn
from runtime.schedule import ddim_weights
from runtime.variation.choice import Choice, check_choice, completed

F32 = npt.NDArray[np.float32]
OUTPUT_TYPES = ("pil", "np", "latent")
# For image to image, as in diffusers; at 1.0, the maximum, hardly anything of the image is left.
DEFAULT_STRENGTH = 0.8


def plan(
    manifest: Manifest,
    *,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    prompt_embeds: npt.ArrayLike | None,
    pooled_prompt_embeds: npt.ArrayLike | None,
    seed: Seeds | None,
    generator: Any,
    variation: Choice,
    fits: Callable[[str], bool],
    num_inference_steps: int,
    guidance_scale: float,
    num_images_per_prompt: int,
    height: int | None,
    width: int | None,
    latents: npt.ArrayLike | None,
    image_given: bool,
    strength: float | None,
) -> Plan:
    """What a call asks for, checked and expanded; arguments and errors as in `Pipeline.run`.

    fits: whether the text encoders read the whole of a prompt.
    """
    choice = check_choice(variation)
    size = check_size(manifest, height, width)
    guidance_scale = guidance(manifest, guidance_scale)
    states = embeds(prompt, prompt_embeds, manifest.max_tokens)
    pooled = pooled_embeds(manifest, states, pooled_prompt_embeds)
    texts = [""] * len(states) if states else prompts(prompt)
    wanted = jobs(texts, negative_prompt, guidance_scale, chosen_seed(seed, generator), num_images_per_prompt)
    wanted = wanted if states else [_completed(manifest, choice, job, fits) for job in wanted]
    chosen = steps(manifest, num_inference_steps, strength, image_given)
    scale = np.float32(1.0 if image_given else chosen[0].noise_scale)
    noises = _noises(wanted, latents, manifest.latents_of(size))
    made = [Generation(job, start * scale) for job, start in zip(wanted, noises, strict=True)]
    nothing: list[F32 | None] = [None] * len(made)
    of_states, of_pooled = (_repeated(given, num_images_per_prompt) or nothing for given in (states, pooled))
    return Plan(made, of_states, of_pooled, chosen, guidance_scale, size, latents is not None)


def check_watermark(given: Any) -> None:
    """ValueError unless it is True, False or None."""
    if given not in (None, True, False):
        raise ValueError(f"watermark must be True, False or None (by size), not {given!r}")


def _repeated(given: Sequence[F32], count: int) -> list[F32 | None]:
    """Each of them `count` times."""
    return [one for one in given for _ in range(count)]


def guidance(manifest: Manifest, asked: float) -> float:
    """The scale of classifier-free guidance for a scale that is asked for: 0 where the weights hold that scale.

    Raises ValueError for another scale than the one that a latent consistency model was exported at.
    """
    recipe = manifest.parity.get("recipe")
    held = recipe.get("guidance_scale") if isinstance(recipe, Mapping) else None
    if held is None or asked == 0:
        return asked
    if asked != held:
        raise ValueError(
            f"guidance_scale {asked!r}: this model takes it as an input, and the bundle holds {held} as a constant; "
            "leave it out, or export the checkpoint with another --guidance-scale"
        )
    return 0.0


def _noises(wanted: Sequence[Job], given: npt.ArrayLike | None, shape: tuple[int, int, int]) -> list[F32]:
    """The latents before the first step, [C, h, w] each: the caller's, or each seed's noise."""
    if given is not None:
        return latents(given, len(wanted), shape)
    return [randn(job.seed, shape) for job in wanted]


def _completed(manifest: Manifest, choice: Choice, job: Job, fits: Callable[[str], bool]) -> Job:
    text = completed(manifest.variation, choice, job.prompt, job.seed, fits, manifest.name)
    return job if text == job.prompt else replace(job, prompt=text, typed=job.prompt)


def jobs(
    prompts: Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    guidance_scale: float,
    seed: Seeds | None,
    num_images_per_prompt: int,
) -> list[Job]:
    """Prompt after prompt, each `num_images_per_prompt` times with seed, seed + 1, ...

    prompts: as `prompts` gives them. One seed serves every prompt; None draws a random one. Raises ValueError that
    says what is allowed.
    """
    negatives = _negatives(negative_prompt, guidance_scale, len(prompts))
    guided = guidance_scale > 1
    count = check_count("num_images_per_prompt", num_images_per_prompt)
    firsts = _seeds(seed, len(prompts))
    rows = zip(prompts, negatives, firsts, strict=True)
    return [Job(text, negative, check_seed(first + i), guided) for text, negative, first in rows for i in range(count)]


def chosen_seed(seed: Seeds | None, generator: Any) -> Seeds | None:
    """The seed that a call means, given as `seed` or as diffusers' `generator`.

    generator: a torch.Generator on the CPU, whose initial seed counts, a whole number, or a list of one per prompt.
    Raises ValueError if both are given, and for anything else, saying what to write instead.
    """
    if generator is None:
        return seed
    if seed is not None:
        raise ValueError("give seed or generator, not both")
    several = isinstance(generator, (list, tuple))
    return [_initial_seed(one) for one in generator] if several else _initial_seed(generator)


def _initial_seed(generator: Any) -> int:
    if _is_whole(generator):
        return check_seed(generator)
    first = getattr(generator, "initial_seed", None)
    if not callable(first):
        kind = type(generator).__name__
        raise ValueError(f"generator must be a torch.Generator or a whole number, not {kind}: write seed=7 instead")
    device = str(getattr(generator, "device", "cpu"))
    if device != "cpu":
        raise ValueError(
            f"the noise is a CPU generator's, and this generator is on {device}: write seed={first()} instead"
        )
    return check_seed(first())


def steps(manifest: Manifest, num_inference_steps: int, strength: float | None, image_given: bool) -> tuple[Step, ...]:
    """The steps to take, noisiest first. strength: None is DEFAULT_STRENGTH.

    From noise: all `num_inference_steps` of them. From a picture, as diffusers: the last
    int(num_inference_steps * strength); a single step starts at the known timestep nearest to
    1000 * strength - 1, so that even one step allows several strengths. Raises ValueError.
    """
    if not _is_whole(num_inference_steps) or num_inference_steps not in manifest.steps:
        known = ", ".join(map(str, sorted(manifest.steps)))
        raise ValueError(f"num_inference_steps must be one of {known}, not {num_inference_steps!r}")
    every = manifest.steps[num_inference_steps]
    if not image_given:
        if strength is not None and not (_is_number(strength) and strength == 1):  # 1 changes nothing
            raise ValueError(f"strength {strength!r} has no effect without an image to start from: leave it out")
        return every
    strength = DEFAULT_STRENGTH if strength is None else strength
    if not _is_number(strength) or not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength!r}")
    if num_inference_steps == 1:
        return (_nearest(manifest, strength),)
    count = int(num_inference_steps * strength)
    if count < num_inference_steps and any(len(step.outputs) > 1 or len(step.latents) > 1 for step in every):
        raise ValueError(
            f"strength {strength} is not possible in {num_inference_steps} steps of this model's scheduler, each of "
            "which needs those before it: use strength 1 or num_inference_steps=1"
        )
    if count == 0:
        least = math.ceil(1000 / num_inference_steps) / 1000  # rounded up: 0.333 would leave none of 3 either
        raise ValueError(f"strength {strength} leaves none of {num_inference_steps} steps: use {least:.3g} or more")
    return _drawn_from_one(every[num_inference_steps - count :])


def _drawn_from_one(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The last steps of a run, whose fresh noise is what the generator gives first after the noise of the start."""
    before = min((step.draw for step in steps if step.noise), default=1) - 1
    return tuple(replace(step, draw=step.draw - before) if step.noise else step for step in steps)


def latents(given: Any, count: int, shape: tuple[int, ...]) -> list[F32]:
    """The caller's latents, one [C, h, w] per picture; ValueError on another shape or on non-finite values."""
    try:
        array = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"latents must be numbers in the shape {(count, *shape)} or {shape}") from error
    if array.shape not in ((count, *shape), (1, *shape), shape):
        raise ValueError(f"latents must have the shape {(count, *shape)} or {shape}, not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("latents hold values that are not finite")
    return list(np.broadcast_to(array, (count, *shape)))


def embeds(prompt: Any, given: Any, max_tokens: int) -> list[F32]:
    """The caller's text states, one [tokens, width] per prompt, none where there are prompts. Raises ValueError.

    The U-Net checks their width.
    """
    if given is None:
        return []
    if prompt is not None:
        raise ValueError("give prompt or prompt_embeds, not both")
    array = _floats("prompt_embeds", given)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1] != max_tokens or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"prompt_embeds must be finite, in the shape ({max_tokens}, width) or (B, {max_tokens}, width), "
            f"not {array.shape}"
        )
    return list(array)


def pooled_embeds(manifest: Manifest, states: Sequence[F32], given: Any) -> list[F32]:
    """The caller's pooled text, one [width] for each of `states`, none where there are prompts. Raises ValueError."""
    if not manifest.conditioning.time_ids or not states:
        if given is not None:
            raise ValueError(
                f"pooled_prompt_embeds goes with prompt_embeds: bundle {manifest.name} takes no pooled text"
                if states
                else "pooled_prompt_embeds goes with prompt_embeds: give both, or the prompt"
            )
        return []
    if given is None:
        raise ValueError(
            f"prompt_embeds is not enough: bundle {manifest.name} takes pooled text too; give pooled_prompt_embeds, or "
            "the prompt"
        )
    array = _floats("pooled_prompt_embeds", given)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != len(states) or not np.isfinite(array).all():
        raise ValueError(
            f"pooled_prompt_embeds must be finite, in the shape (width) or ({len(states)}, width), not {array.shape}"
        )
    return list(array)


def _floats(name: str, given: Any) -> F32:
    try:
        return np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, not {type(given).__name__}") from error


def is_latents(start: Any, shape: tuple[int, int, int]) -> bool:
    """Whether a start picture is latents already; pictures have three channels last."""
    return isinstance(start, np.ndarray) and start.shape == shape and start.dtype.kind == "f"


def images(image: Any, count: int, shape: tuple[int, int, int]) -> list[Any]:
    """Start pictures, one per picture: the same for all, or a list; [B, C, h, w] counts as a list of latents."""
    if isinstance(image, np.ndarray) and image.shape[1:] == shape:
        image = list(image)
    starts = list(image) if isinstance(image, (list, tuple)) else [image] * count
    if len(starts) != count:
        raise ValueError(f"{count} pictures need one image or a list of {count}, not {len(starts)}")
    return starts


def check_size(manifest: Manifest, height: int | None, width: int | None) -> tuple[int, int]:
    """The (height, width) that a call means: None is the bundle's own. ValueError unless the bundle makes it."""
    for name, side in (("height", height), ("width", width)):
        if side is not None:
            check_count(name, side)
    own_height, own_width = manifest.image_size
    size = (own_height if height is None else height, own_width if width is None else width)
    sizes = manifest.sizes or (manifest.image_size,)
    if size in sizes:
        return sizes[sizes.index(size)]
    allowed = [f"width {across}, height {down}" for down, across in sizes]
    asked = f"{size[1]}x{size[0]}"
    raise ValueError(f"a picture of {asked} is not possible: bundle {manifest.name} makes {' or '.join(allowed)}")


def check_callback(callback: object) -> None:
    """ValueError unless it can be called, or is None."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end must be a function, not {type(callback).__name__}")


def one_prompt(prompt: object) -> str:
    """The prompt itself, which may be empty; ValueError unless it is a string."""
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be one string, not {type(prompt).__name__}: call it for each prompt")
    return prompt


def check_output_type(output_type: str) -> None:
    """ValueError unless it is one of OUTPUT_TYPES."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")


def check_count(name: str, value: int) -> int:
    """The value itself; ValueError unless it is a whole number of 1 or more."""
    if not _is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, not {value!r}")
    return int(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """Whether it is a finite number; numpy's numbers count too."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def prompts(prompt: str | Sequence[str] | None) -> list[str]:
    """One string or several as a list; ValueError when there is none, or one is empty."""
    texts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("prompt must be a string, or a list of one string or more")
    for text in texts:
        if not text.strip():
            raise ValueError("the prompt is empty: say what the picture should show")
    return texts


def _negatives(negative_prompt: str | Sequence[str] | None, guidance_scale: float, count: int) -> Sequence[str | None]:
    """One negative prompt per prompt, None for each when none is given."""
    if not _is_number(guidance_scale):
        raise ValueError(f"guidance_scale must be a finite number, not {guidance_scale!r}")
    if guidance_scale <= 1:
        if negative_prompt:
            raise ValueError(
                f"negative_prompt has no effect at guidance_scale {guidance_scale}: "
                "use a guidance_scale above 1, or leave it out"
            )
        return [None] * count
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt] * count
    negatives = list(negative_prompt) if isinstance(negative_prompt, Sequence) else [negative_prompt]
    if not all(isinstance(text, str) for text in negatives):
        raise ValueError("negative_prompt must be a string, or a list of one string per prompt")
    if len(negatives) != count:
        raise ValueError(f"{count} prompts need {count} negative prompts, not {len(negatives)}")
    return negatives


def _seeds(seed: Seeds | None, count: int) -> list[int]:
    if seed is None:
        return [int.from_bytes(os.urandom(4), "little")] * count
    given: Any = seed
    if isinstance(seed, np.ndarray):  # keeps numpy's own integers; floats stay floats, and are refused
        given = list(seed) if seed.ndim else seed[()]
    if not isinstance(given, Sequence):
        return [check_seed(given)] * count
    if len(given) != count:
        raise ValueError(f"{count} prompts need one seed or a list of {count}, not {len(given)} seeds")
    return [check_seed(one) for one in given]


def _nearest(manifest: Manifest, strength: float) -> Step:
    """One step to the picture from the manifest's timestep nearest to the fraction `strength` of the noisiest one."""
    known = [step for entries in manifest.steps.values() for step in entries]
    target = strength * (max(step.timestep for step in known) + 1) - 1
    step = min(known, key=lambda step: (abs(step.timestep - target), -step.timestep))
    of_latents, of_output = ddim_weights(manifest.prediction_type, (step.alpha, step.sigma))
    return replace(step, latents=(of_latents,), outputs=(of_output,), noise=0.0, draw=0)
