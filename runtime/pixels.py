"""f32 [-1, 1] <-> u8 pictures. The files they go into: runtime.image_files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from runtime.decoding import on_white

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def to_unit(x: npt.ArrayLike) -> F32:
    """[-1, 1] -> [0, 1], clamped, same shape, f32; not-a-number becomes 0."""
    half = np.asarray(x, np.float32) / np.float32(2) + np.float32(0.5)
    clamped: F32 = np.nan_to_num(half, nan=0.0).clip(np.float32(0), np.float32(1))
    return clamped


def to_uint8(x: npt.ArrayLike) -> U8:
    """[-1, 1] -> 0..255, same shape: clamp, then floor(x * 255 + 0.5), so that halves go up everywhere."""
    return unit_to_uint8(to_unit(x))


def unit_to_uint8(x: F32) -> U8:
    """[0, 1] -> 0..255, same shape, rounded as `to_uint8` does; values beyond [0, 1] are the caller's to clamp."""
    levels: F32 = np.floor(x * np.float32(255) + np.float32(0.5))
    return levels.astype(np.uint8)


def from_uint8(pixels: npt.ArrayLike) -> F32:
    """0..255 -> [-1, 1], same shape, f32."""
    return np.asarray(pixels, np.float32) / np.float32(127.5) - np.float32(1)


def to_image(chw: F32) -> Image.Image:
    """f32[3, H, W] in [-1, 1] -> an RGB picture."""
    return Image.fromarray(np.ascontiguousarray(to_uint8(chw).transpose(1, 2, 0)))


def from_image(image: Any, size: tuple[int, int]) -> F32:
    """A picture -> f32[3, H, W] in [-1, 1], scaled to cover `size` (H, W) and center-cropped to it.

    `image`: a PIL picture (upright, sRGB, on white: see `decoding`), or an array [H, W, 3], u8 or floats in [0, 1].
    Raises ValueError on anything else.
    """
    height, width = size
    picture = on_white(image if isinstance(image, Image.Image) else _picture(image))
    if 0 in picture.size:
        raise ValueError("image is empty: it has no pixels")
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return from_uint8(np.asarray(fitted)).transpose(2, 0, 1)


def _picture(array: Any) -> Image.Image:
    pixels = np.asarray(array)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError("image must be a PIL picture or an array [height, width, 3]")
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.floating) or not ((pixels >= 0) & (pixels <= 1)).all():
            raise ValueError("an image array must be uint8, or floats from 0 to 1")
        pixels = to_uint8(pixels * 2 - 1)
    return Image.fromarray(pixels)
