"""Checkpoints in diffusers' own folder layout: read and write them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from runtime.errors import UserError
from runtime.files import whole_folder
from train.folders import resolve_checkpoint
from train.prompts import PROMPTS, prompts_text

SHARD_BYTES = 14_000_000  # keeps every committed file below 15 MB


def one_step_scheduler(teacher: Any = None) -> DDIMScheduler:
    """The scheduler with which diffusers, optimum, Apple's Python and OpenVINO GenAI compute the same one step.

    teacher: a scheduler whose noise levels and prediction type are kept; ours when left out.
    """
    kept = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
    )
    schedule = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": False,
    }
    if teacher is not None:
        schedule |= {key: teacher.config[key] for key in kept if key in teacher.config}
    return DDIMScheduler(
        **schedule, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", steps_offset=0
    )


def load_pipeline(name_or_path: str | Path, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The diffusers pipeline of a checkpoint, without a safety checker. Raises UserError if it cannot be read."""
    folder = resolve_checkpoint(name_or_path)
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # loading for a second needs no bar
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=dtype, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
    except Exception as error:  # diffusers raises a dozen exception types here
        raise UserError(f"{folder}: cannot be opened as a StableDiffusionPipeline: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_part(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind` from a folder, never from the network. Raises UserError."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{folder}: cannot be opened as {kind.__name__}: {error}") from error


def save_pipeline(
    target: Path,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    dtype: torch.dtype = torch.float16,
    facts: dict[str, object] | None = None,
    scheduler: DDIMScheduler | None = None,
    prompts: Sequence[str] = (),
) -> None:
    """Write a whole pipeline folder, weights in `dtype` in shards of at most 14 MB, atomically.

    facts: written beside them as training.json; exporters carry it into a bundle's manifest. prompts: of the model's
    own field, written as prompts.txt, with which exporters calibrate and compare.
    """
    parts = {"vae": vae, "text_encoder": text_encoder, "unet": unet}
    copies = {name: _in_dtype(module, dtype) for name, module in parts.items()}
    pipeline = StableDiffusionPipeline(
        **copies,
        tokenizer=tokenizer,
        scheduler=scheduler or one_step_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with whole_folder(target) as folder:
        pipeline.save_pretrained(folder, max_shard_size=SHARD_BYTES)
        forget_origins(folder)
        if facts:
            (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
        if prompts:
            (folder / PROMPTS).write_text(prompts_text(prompts), encoding="utf-8")


def _in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself where it has the dtype already, else a copy: the caller's stays as it is."""
    if all(p.dtype == dtype for p in module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)


def forget_origins(folder: Path) -> None:
    """Clear every config.json of the paths that the networks were loaded from: they mean nothing elsewhere."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")
