"""The guidance scale that some U-Nets take as an input (latent consistency models), folded into their weights."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch


def default_scale(pipeline_class: str) -> float:
    """The guidance scale with which a pipeline class of diffusers draws when none is given."""
    call = getattr(diffusers, pipeline_class, diffusers.StableDiffusionPipeline).__call__
    return float(inspect.signature(call).parameters["guidance_scale"].default)


@torch.no_grad()
def fold_guidance(pipeline: Any, pipeline_class: str, scale: float | None = None) -> float | None:
    """In place: a U-Net without the guidance input, which computes what it computed at a scale.

    The embedding of the scale is projected and added to the timestep's before a linear layer: for one scale that is a
    constant in the layer's bias. pipeline_class: diffusers' class that the checkpoint names, whose default scale is
    taken when None is given. Returns the scale, None for a U-Net without such an input.
    """
    unet = pipeline.unet
    width = unet.config.time_cond_proj_dim
    if width is None:
        return None
    scale = default_scale(pipeline_class) if scale is None else scale
    embedding = pipeline.get_guidance_scale_embedding(torch.tensor([scale - 1]), embedding_dim=width)
    time, first = unet.time_embedding, unet.time_embedding.linear_1
    added = first.weight @ time.cond_proj(embedding.to(first.weight)).squeeze(0)
    first.bias.add_(added)
    time.cond_proj = None
    unet.register_to_config(time_cond_proj_dim=None)
    return scale
