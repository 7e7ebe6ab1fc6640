"""Checkpoints in diffusers' own folder layout: read and write them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    ModelMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast
from transformers.utils import logging as transformers_logging

from runtime.errors import UserError
from runtime.files import whole_folder
from train.folders import read_json, refuse_pipeline
from train.guidance import fold_guidance
from train.opening.call import at_timestep, read_call
from train.opening.from_file import from_file
from train.opening.loras import fuse_loras
from train.opening.resolve import resolve_checkpoint
from train.prompts import PROMPTS, prompts_text
from train.weights.check import opening
from train.weights.files import refuse_variant, whole_file

# The classes that a part may be of, and what it is opened as.
PARTS: dict[str, dict[str, Any]] = {
    "text_encoder": {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModel},
    "unet": {"UNet2DConditionModel": UNet2DConditionModel},
    "vae": {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL},
}
# Parts that a text needs not; a folder that names them may come without them.
UNUSED: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
DTYPE = {True: "torch_dtype", False: "dtype"}  # the same argument in diffusers, and in transformers
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


def load_pipeline(
    name_or_path: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> StableDiffusionPipeline:
    """The diffusers pipeline of a checkpoint, without a safety checker. Raises UserError if it cannot be read.

    variant: of the weight files, such as "fp16", where a part has one. Every weight comes from the files: a part that
    lacks some is refused. A U-Net that takes the guidance scale as an input comes without it, at the scale that the
    folder's `Call` or diffusers' default gives, which is the pipeline's attribute `folded_guidance` (else None).
    """
    folder = resolve_checkpoint(name_or_path)
    refuse_pipeline(folder)
    refuse_variant(folder, variant)
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # loading for a second needs no bar
    known = kinds(folder)
    own = {part: kind for part, kind in known.items() if not whole_file(folder / part)}
    parts = {part: load_part(kind, folder / part, variant, dtype) for part, kind in own.items()}
    fast = fast_tokenizer(folder / "tokenizer")
    if fast is not None:
        parts["tokenizer"] = None  # diffusers refuses one of another class than model_index.json says
    try:
        if len(own) < len(known):
            pipeline = from_file(StableDiffusionPipeline, folder, parts | UNUSED, dtype)
        else:
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder, **parts, **UNUSED, requires_safety_checker=False, local_files_only=True
            )
    except UserError:
        raise
    except Exception as error:  # diffusers raises a dozen exception types here
        raise UserError(f"{folder}: cannot be opened as a StableDiffusionPipeline: {error}") from error
    if fast is not None:
        pipeline.register_modules(tokenizer=fast)
    pipeline.set_progress_bar_config(disable=True)
    fuse_loras(pipeline, folder)
    name, call = str(read_json(folder / "model_index.json").get("_class_name")), read_call(folder)
    pipeline.folded_guidance = fold_guidance(pipeline, name, call.guidance_scale)
    if call.timestep is not None:
        pipeline.scheduler = at_timestep(pipeline.scheduler, call.timestep)
    return pipeline


def fast_tokenizer(folder: Path) -> CLIPTokenizerFast | None:
    """The tokenizer of a folder that holds tokenizer.json alone, as transformers 5 writes it; else None."""
    slow = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if slow or not (folder / "tokenizer.json").is_file():
        return None
    made: CLIPTokenizerFast = load_part(CLIPTokenizerFast, folder)
    return made


def kinds(folder: Path) -> dict[str, Any]:
    """The class of each network of a pipeline folder. Raises UserError for one that no Stable Diffusion has."""
    index = read_json(folder / "model_index.json")
    found = {part: (index.get(part) or [None, None])[1] for part in PARTS}
    for part, name in found.items():
        if name not in PARTS[part]:
            known = " or ".join(PARTS[part])
            raise UserError(f"{folder}: its {part} is a {name}, and a Stable Diffusion pipeline needs a {known}")
    return {part: PARTS[part][name] for part, name in found.items()}


def load_part(kind: Any, folder: Path, variant: str | None = None, dtype: torch.dtype | str | None = None) -> Any:
    """`kind` from a folder, never from the network; a network in `dtype`, if there is one, and with all its weights.

    Raises UserError, one line, also where the files lack a weight.
    """
    options: dict[str, Any] = {}
    if issubclass(kind, nn.Module) and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: cannot be opened as {kind.__name__}: config.json is missing")
    try:
        if issubclass(kind, nn.Module):
            options = opening(kind, folder, variant) | ({DTYPE[issubclass(kind, ModelMixin)]: dtype} if dtype else {})
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except UserError:
        raise
    except Exception as error:  # diffusers and transformers raise a dozen exception types here
        raise UserError(f"{folder}: cannot be opened as {kind.__name__}: {error}") from error


def save_pipeline(
    target: Path,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer | CLIPTokenizerFast,
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
