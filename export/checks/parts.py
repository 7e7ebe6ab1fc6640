"""Whether a pipeline's parts belong together, judged by their JSON files alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from train.folders import read_json

Config = Mapping[str, Any]
COLOURS = 3
LATENT_CHANNELS = 4  # diffusers' default, in autoencoders and U-Nets alike
VOCABULARY = 49408  # transformers' default, CLIP's
SIZES = 6  # numbers in SDXL's time_ids


def vae_faults(vae: Config, unet: Config) -> Iterator[str]:
    """Why the autoencoder rules out an export: other latents than the U-Net's, other colours than RGB."""
    latents, taken = vae.get("latent_channels", LATENT_CHANNELS), unet.get("in_channels", LATENT_CHANNELS)
    if latents != taken:
        yield (
            f"the autoencoder's latents have {latents} channels, the U-Net's {taken}: they belong to two models, put "
            "the vae folder of the U-Net's own model there"
        )
    for key in ("in_channels", "out_channels"):
        if (found := vae.get(key, COLOURS)) != COLOURS:
            yield (
                f"the autoencoder's {key} is {found}, and pictures have {COLOURS} colours: put the vae folder of a "
                "model of RGB pictures there"
            )


def width_faults(texts: Sequence[Config], unet: Config) -> Iterator[str]:
    """Why the U-Net's attention does not fit the text encoders: another width, or attention to more than texts."""
    if unet.get("dual_cross_attention"):
        yield "the U-Net attends to a text and a picture (dual_cross_attention), and exports take a text alone"
    hidden = sum(text.get("hidden_size", 512) for text in texts)
    wanted = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim", 1280)
    widths = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if any(width != hidden for width in widths):
        other = next(width for width in widths if width != hidden)
        gives = "the text encoder gives" if len(texts) == 1 else "the text encoders together give"
        yield f"{gives} {hidden} numbers a token, the U-Net takes {other}: they belong to two models"


def added_faults(text: Config, unet: Config, vae: Config) -> Iterator[str]:
    """Why the pooled text and the sizes do not fit SDXL's U-Net, or its latents are scaled channel by channel."""
    given = text.get("projection_dim", 512) + SIZES * (unet.get("addition_time_embed_dim") or 0)
    taken = unet.get("projection_class_embeddings_input_dim")
    if taken != given:
        yield (
            f"text_encoder_2 and the picture's sizes give {given} numbers, the U-Net's add_embedding takes {taken}: "
            "they belong to two models, or the model is a refiner, which is not exported"
        )
    if any(vae.get(key) is not None for key in ("latents_mean", "latents_std")):
        yield "the autoencoder scales each channel of the latents on its own (latents_mean), and exports hold one scale"


def vocabulary_faults(text: Config, tokenizer: Path) -> Iterator[str]:
    """Why the text encoder does not fit the tokenizer: ids beyond its table of embeddings."""
    size = text.get("vocab_size", VOCABULARY)
    ids = token_ids(tokenizer)
    token = max(ids, key=ids.__getitem__, default=None)
    if token is not None and ids[token] >= size:
        yield (
            f"the tokenizer knows {token!r} as id {ids[token]}, and the text encoder has rows for {size} ids only: "
            "add the rows with diffusers, pipe.load_textual_inversion(FILE), and save the pipeline, or copy "
            "text_encoder and tokenizer from one model"
        )


def token_ids(folder: Path) -> dict[str, int]:
    """Token -> id of a tokenizer's folder, whichever files it has."""
    ids: dict[str, int] = {}
    for name in ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        data = read_json(folder / name)
        try:
            ids |= ids_of(name, data)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise UserError(f"{folder / name} is not of the form that transformers writes: {error}") from error
    return ids


def ids_of(name: str, data: Config) -> dict[str, int]:
    """Token -> id as one of a tokenizer's files says it."""
    if name == "tokenizer.json":
        return dict(data["model"]["vocab"]) | {entry["content"]: int(entry["id"]) for entry in data["added_tokens"]}
    if name == "tokenizer_config.json":
        added = data.get("added_tokens_decoder", {})
        return {entry["content"]: int(number) for number, entry in added.items()}
    return {token: int(number) for token, number in data.items()}


def size_faults(unet: Config) -> Iterator[str]:
    """Why the size of the latents rules out an export."""
    size = unet.get("sample_size")
    if size is None:
        yield "the U-Net's config.json has no sample_size, the side of the latents that it was made for"
        return
    sides = size if isinstance(size, list | tuple) else [size]
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        yield f"the U-Net's sample_size is {json.dumps(size)}, which must be one side of its latents or [height, width]"
