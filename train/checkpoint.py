"""Checkpoints in diffusers' own folder layout: read and write them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    ModelMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPTokenizerFast
from transformers.utils import logging as transformers_logging

from runtime.errors import UserError
from runtime.files import whole_folder
from train.families import SD, SDXL, Kind
from train.folders import pipeline_kind, read_json
from train.guidance import fold_guidance
from train.opening.call import at_timestep, read_call
from train.opening.from_file import from_file
from train.opening.loras import fuse_loras
from train.opening.resolve import resolve_checkpoint
from train.prompts import PROMPTS, prompts_text
from train.weights.check import opening
from train.weights.files import refuse_variant, whole_file

# What a part is opened as.
NETWORKS: dict[str, Any] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderTiny": AutoencoderTiny,
    "AutoencoderKL": AutoencoderKL,
}
# Parts that a text needs not; a folder that names them may come without them.
UNUSED: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
PIPELINES: dict[str, Any] = {
    "StableDiffusionPipeline": (
        StableDiffusionPipeline,
        UNUSED | {"safety_checker": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": (StableDiffusionXLPipeline, UNUSED | {"add_watermarker": False}),
}
DTYPE = {True: "torch_dtype", False: "dtype"}  # the same argument in diffusers, and in transformers
SHARD_BYTES = 14_000_000  # keeps every committed file below 15 MB
VARIATION = "variation.json"


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
    name_or_path: str | Path,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    kinds: Sequence[Kind] = (SD,),
) -> Any:
    """The diffusers pipeline of a checkpoint, without safety checker and watermark. UserError if it cannot be read.

    variant: of the weight files, such as "fp16", where a part has one. kinds: that the caller can work with. Every
    weight comes from the files: a part that lacks some is refused. A U-Net that takes the guidance scale as an input
    comes without it, at the scale that the folder's `Call` or diffusers' default gives, which is the pipeline's
    attribute `folded_guidance` (else None).
    """
    folder = resolve_checkpoint(name_or_path)
    kind = pipeline_kind(folder, kinds)
    refuse_variant(folder, variant)
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # loading for a second needs no bar
    known = classes(folder, kind)
    own = {part: made for part, made in known.items() if not whole_file(folder / part)}
    parts = {part: load_part(made, folder / part, variant, dtype) for part, made in own.items()}
    fast = {name: made for name in kind.encoders.values() if (made := fast_tokenizer(folder / name))}
    parts |= dict.fromkeys(fast)  # diffusers refuses one of another class than model_index.json says
    opener, options = PIPELINES[kind.pipeline]
    try:
        if len(own) < len(known):
            pipeline = from_file(opener, folder, parts | options, dtype)
        else:
            pipeline = opener.from_pretrained(folder, **parts, **options, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # diffusers raises a dozen exception types here
        raise UserError(f"{folder}: cannot be opened as a {kind.pipeline}: {error}") from error
    if fast:
        pipeline.register_modules(**fast)
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


def classes(folder: Path, kind: Kind) -> dict[str, Any]:
    """The class of each network of a pipeline folder. Raises UserError for one that no pipeline of its kind has."""
    index = read_json(folder / "model_index.json")
    found = {part: (index.get(part) or [None, None])[1] for part in kind.networks}
    for part, name in found.items():
        if name not in kind.classes[part]:
            known = " or ".join(kind.classes[part])
            raise UserError(f"{folder}: its {part} is a {name}, and a {kind.pipeline} needs a {known}")
    projecting = (
        {} if kind.second_text else {"CLIPTextModelWithProjection": CLIPTextModel}
    )  # whose projection is unused
    return {part: (NETWORKS | projecting)[name] for part, name in found.items()}


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
    variation: Mapping[str, object] | None = None,
    second_text: Mapping[str, Any] | None = None,
) -> None:
    """Write a whole pipeline folder, weights in `dtype` in shards of at most 14 MB, atomically.

    facts: written beside them as training.json; exporters carry it into a bundle's manifest. prompts: of the model's
    own field, written as prompts.txt, with which exporters calibrate and compare. variation: the table of what a prompt
    leaves open (runtime.variation), written as variation.json, which exporters put into a bundle.
    second_text: SDXL's further arguments, see `train.opening.second_text`.
    """
    second = second_text or {}
    parts = {"vae": vae, "text_encoder": text_encoder, "unet": unet, **second}
    copies = {name: _in_dtype(one, dtype) if isinstance(one, nn.Module) else one for name, one in parts.items()}
    opener, options = PIPELINES[(SDXL if second else SD).pipeline]
    pipeline = opener(**copies, tokenizer=tokenizer, scheduler=scheduler or one_step_scheduler(), **options)
    with whole_folder(target) as folder:
        pipeline.save_pretrained(folder, max_shard_size=SHARD_BYTES)
        forget_origins(folder)
        if facts:
            (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
        if prompts:
            (folder / PROMPTS).write_text(prompts_text(prompts), encoding="utf-8")
        if variation is not None:
            (folder / VARIATION).write_text(json.dumps(variation, separators=(",", ":")) + "\n", encoding="utf-8")


def as_stored(network: Any) -> Any:
    """The network with its weights rounded to what `save_pipeline` will write, in the precision that they had.

    Latents and texts are then those of the finished pipeline, so that a student finds its teacher's in the cache.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(tensor.data.half())
    return network


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
