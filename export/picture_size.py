"""The size of an export's pictures: what a checkpoint's configurations say, and what may be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.manifest import MOST_PIXELS, MOST_SIDE
from train.folders import read_json

Config = Mapping[str, Any]
Size = tuple[int, int]  # height, width in pixels


def side_factor(vae: Config) -> int:
    """Pixels per latent, along a side, by the configuration of an autoencoder."""
    channels = vae.get("block_out_channels") or vae["decoder_block_out_channels"]
    return int(2 ** (len(channels) - 1))


def latents_of(unet: Config) -> tuple[int, int]:
    """(height, width) of the latents by the configuration of a U-Net."""
    size = unet["sample_size"]
    height, width = [size, size] if isinstance(size, int) else [*size, *size][:2]
    return int(height), int(width)


def latents_for(height: int, width: int, factor: int) -> tuple[int, int]:
    """(height, width) of the latents of a picture. Raises UserError for a size that cannot be drawn."""
    if height <= 0 or width <= 0 or height % factor or width % factor:
        raise UserError(f"a picture of {width}x{height} cannot be exported: both sides must be multiples of {factor}")
    if max(height, width) > MOST_SIDE or height * width > MOST_PIXELS:
        raise UserError(
            f"a picture of {width}x{height} cannot be exported: {MOST_SIDE} pixels a side and {MOST_PIXELS} in all are "
            "the most"
        )
    return height // factor, width // factor


def sizes_of(text: str) -> tuple[Size, ...]:
    """(height, width) of each size in "512x512,768x512", widths first. Raises UserError."""
    found = []
    for one in text.split(","):
        width, _, height = one.strip().partition("x")
        if not width.isdigit() or not height.isdigit():
            raise UserError(f"--sizes {text}: {one!r} is no size; write WIDTHxHEIGHT, separated by commas")
        found.append((int(height), int(width)))
    return tuple(dict.fromkeys(found))


def several(folder: Path, others: Sequence[Size]) -> tuple[Size, ...]:
    """All sizes of an export whose graphs take several, the checkpoint's own first; () where there are no others.

    Raises UserError for a side that the U-Net's levels do not halve evenly.
    """
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    factor = side_factor(vae)
    own = tuple(side * factor for side in latents_of(unet))
    sizes = tuple(dict.fromkeys((own, *others)))
    step = factor * graph_step(unet)
    for height, width in sizes[: len(sizes) if len(sizes) > 1 else 0]:
        latents_for(height, width, factor)
        if height % step or width % step:
            raise UserError(f"--sizes: {width}x{height} cannot be one of several: sides must be multiples of {step}")
    return sizes if len(sizes) > 1 else ()  # type: ignore[return-value]  # two sides each


def graph_step(unet: Config) -> int:
    """Latents by whose multiples a graph of several sizes takes sides: each level of the U-Net halves them."""
    return int(2 ** (len(unet["block_out_channels"]) - 1))
