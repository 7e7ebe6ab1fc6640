"""What is evaluated, as a function of prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import UserError
from runtime.pixels import to_uint8
from train.diffusion import autocast, computes_in_bf16
from train.latents import decode_latents
from train.opening.resolve import resolve_checkpoint
from train.progress import progress
from train.sizes import latent_side

SCORER_PICTURES = 4000  # real training pictures that the retrieval scorer learns from, at most
# What `encode_prompt` of diffusers' pipelines returns, in order; the last two of SDXL alone.
EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
# prompts, seeds, steps -> pictures u8[N, H, W, 3]
Generate = Callable[[Sequence[str], Sequence[int], int], np.ndarray]


def checkpoint_generator(pipeline: Any, guidance: float, batch: int = 0) -> Generate:
    """Pictures by a diffusers pipeline itself, SDXL's too, with its own scheduler, on its device, bf16 or fp32.

    guidance: the scale, none at 1 and below. batch: pictures at once; 0 is 32 of 128 pixels, fewer of larger ones.
    Raises UserError at a U-Net for pictures that are not square; the generator, at steps that the scheduler refuses.
    """
    side, bf16 = latent_side(pipeline.unet) * pipeline.vae_scale_factor, computes_in_bf16(pipeline.device)
    batch = batch or max(2, 32 * 128**2 // side**2)
    options = {"guidance_scale": guidance, "output_type": "latent"}

    def generate(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        check_steps(pipeline.scheduler, steps)
        parts = []
        with progress(f"{steps} steps", len(prompts)) as advance, torch.no_grad():
            for start in range(0, len(prompts), batch):
                chosen = slice(start, start + batch)
                text = encoded(pipeline, prompts[chosen], guidance)
                noise = [torch.Generator().manual_seed(int(seed)) for seed in seeds[chosen]]
                with autocast(pipeline.device, bf16):
                    latents = pipeline(**text, **options, generator=noise, num_inference_steps=steps).images
                decoded = decode_latents(pipeline.vae, latents)
                parts.append(to_uint8(decoded.permute(0, 2, 3, 1).cpu().numpy()))
                advance(len(latents))
        return np.concatenate(parts)

    return generate


def encoded(pipeline: Any, prompts: Sequence[str], guidance: float) -> dict[str, Any]:
    """What a pipeline's call needs of texts, computed outside of it: in fp32, whatever the U-Net is computed in.

    A prompt that comes several times is encoded once.
    """
    texts = list(dict.fromkeys(prompts))
    rows = torch.tensor([texts.index(prompt) for prompt in prompts], device=pipeline.device)
    given = {"prompt": texts, "device": pipeline.device, "num_images_per_prompt": 1}
    found = pipeline.encode_prompt(**given, do_classifier_free_guidance=guidance > 1)
    return {name: value if value is None else value[rows] for name, value in zip(EMBEDDINGS, found, strict=False)}


def check_steps(scheduler: Any, steps: int) -> None:
    """Raises UserError where a scheduler refuses a number of steps."""
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"{type(scheduler).__name__} refuses {steps} steps: {error}") from error


def bundle_generator(folder: Path) -> Generate:
    """Pictures by our runtime. Prompts stay as they are given: a checkpoint's pictures, beside them, are of these."""
    import runtime

    pipe = runtime.load(folder)

    def generate(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        parts = []
        with progress(f"{steps} steps", len(prompts)) as advance:
            for prompt, seed in zip(prompts, seeds, strict=True):
                picture = pipe(prompt, seed=seed, num_inference_steps=steps, variation=None)[0]
                parts.append(np.asarray(picture))
                advance(1)
        return np.stack(parts)

    return generate


def is_bundle(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def find_subject(name_or_path: str) -> tuple[Path, bool]:
    """(folder, whether it is an ONNX bundle). Raises UserError when it is neither bundle nor checkpoint."""
    path = Path(name_or_path)
    return (path, True) if is_bundle(path) else (resolve_checkpoint(name_or_path), False)


def require_device(name: str) -> None:
    """Raises UserError where there is no such device."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is none here; use --device cpu")
