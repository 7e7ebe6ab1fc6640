"""diffusers' pipeline from one file, once every tensor of its networks is known to be there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from runtime.errors import UserError
from train.folders import read_json
from train.opening.structure import OPEN_CLIP, UNET, XL_OPEN_CLIP
from train.weights.check import network_shapes
from train.weights.files import IN_WHOLE, WHOLE, read_safetensors
from train.weights.keys import BESIDE, shown

NETWORKS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
OWN_MODEL = "give the folder of its own model by --config"


def from_file(kind: Any, folder: Path, parts: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """`kind` of diffusers by its own converter. folder: configurations and WHOLE; parts: those that are open already.

    Raises UserError, one line, where the file and the configurations do not hold the same tensors.
    """
    file = folder / WHOLE
    tensors = {name: torch.empty(weight.shape, device="meta") for name, weight in read_safetensors(file)}
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of casts that change nothing, and of averaged weights that it leaves out
    try:
        for part in NETWORKS:
            if part not in parts and (folder / part).is_dir():
                refuse_misfit(file.resolve(), part, folder / part, tensors)
        return kind.from_single_file(str(file), config=str(folder), torch_dtype=dtype, local_files_only=True, **parts)
    finally:
        logging.set_verbosity(level)


def refuse_misfit(file: Path, part: str, folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise UserError unless diffusers' converter gives exactly the tensors of a part's network."""
    try:
        found = converted(part, folder, tensors)
    except (LookupError, ValueError, RuntimeError) as error:
        raise UserError(f"{file}: its {part} is not of this model's form ({error!r}): {OWN_MODEL}") from error
    expected = network_shapes(NETWORKS[part], folder)
    if missing := [name for name in expected if name not in found]:
        raise UserError(f"{file} lacks {missing[0]} of the {part} ({len(missing)} such tensors): {OWN_MODEL}")
    beside = [name for name in found if name not in expected and not BESIDE.fullmatch(name)]
    beside += unread(part, found, tensors)
    if beside:
        raise UserError(f"{file} holds {beside[0]} ({len(beside)} such tensors), which its {part} has not: {OWN_MODEL}")
    if other := [name for name in expected if tuple(found[name].shape) != expected[name]]:
        name, shape = other[0], tuple(found[other[0]].shape)
        raise UserError(
            f"{file}: {name} of the {part} has {shown(shape)} numbers, its configuration says {shown(expected[name])}: "
            f"{OWN_MODEL}"
        )


def converted(part: str, folder: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A part's tensors under today's names, by diffusers' converters, which here move no numbers."""
    config, given = read_json(folder / "config.json"), dict(tensors)
    made: dict[str, torch.Tensor]
    if part == "unet":
        made = convert_ldm_unet_checkpoint(given, config)
    elif part == "vae":
        made = convert_ldm_vae_checkpoint(given, config)
    else:
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        for prefix in (OPEN_CLIP, XL_OPEN_CLIP):
            if prefix in IN_WHOLE[part] and any(name.startswith(prefix) for name in given):
                return convert_open_clip_checkpoint(model, given, prefix=prefix)
        made = convert_ldm_clip_checkpoint(given)
    return made


def unread(part: str, found: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Tensors of the U-Net that the converter passes over without a word."""
    used = {id(tensor) for tensor in found.values()}
    return [
        name
        for name, tensor in tensors.items()
        if part == "unet" and name[: len(UNET)] == UNET and id(tensor) not in used
    ]
