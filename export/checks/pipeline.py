"""The judge: what diffusers' own pipeline draws, given prompts and generators alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from export.source import Floats, Source


def drawn_by_diffusers(
    source: Source, prompts: Sequence[str], seeds: Sequence[int], steps: int = 1
) -> tuple[Floats, Floats]:
    """Pictures f32[N,3,H,W] in [0,1] and latents f32[N,C,h,w], by the `__call__` of diffusers' pipeline, no guidance.

    Nothing of ours has a part in it: tokenizer, scheduler and noise are the pipeline's, one prompt a call.
    """
    pictures, latents = [], []
    height, width = source.image_size

    def keep(pipe: Any, i: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        last[:] = [values["latents"].numpy()]
        return values

    for prompt, seed in zip(prompts, seeds, strict=True):
        last: list[Floats] = []
        made = source.pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=0.0,
            eta=source.eta,
            height=height,
            width=width,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            callback_on_step_end=keep,
        )
        pictures.append(made.images.transpose(0, 3, 1, 2))
        latents += last
    return np.concatenate(pictures).astype(np.float32), np.concatenate(latents).astype(np.float32)
