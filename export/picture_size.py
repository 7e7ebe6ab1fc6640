"""The size of an export's pictures: what a checkpoint's configurations say, and what may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import UserError
from runtime.manifest import MOST_PIXELS, MOST_SIDE

Config = Mapping[str, Any]


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
