"""A picture and 16 bits -> the picture with an invisible mark."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.watermark.carriers import ADDED, F32, SIDE, blueness, drawn, order, waves
from runtime.watermark.words import signs_of

U8 = npt.NDArray[np.uint8]
LEAST_PSNR_DB = 42.0  # over the visible pixels; stronger marks are made weaker until they keep it
_QUIET = 6.0  # the height of a wave in a flat block: up to 3 levels of blue and half a level of green
_BUSY = 0.2  # and what a block may bear for its own unrest
_HIGHEST = 8.0
_PASSES = 3  # rounding and the ends of the scale take some of a wave: twice more what is missing is added
_WEAKER = 0.8


def embedded(image: Image.Image, code: int) -> Image.Image:
    """The same picture, RGB or RGBA, with the mark of a code, 0 to 65535, in its colours.

    Transparent pixels are kept, half transparent ones get half of the mark. Raises ValueError on another mode or code.
    """
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"a watermark needs an RGB or RGBA picture, not {image.mode}")
    which, signs = order()
    wanted = signs_of(code)[which] * signs
    if 0 in image.size:
        return image.copy()
    pixels = np.array(image)
    rgb = pixels[..., :3].astype(np.float32)
    visible = pixels[..., 3:].astype(np.float32) / 255 if image.mode == "RGBA" else np.ones((1, 1, 1), np.float32)
    strength = 1.0
    marked = _marked(rgb, visible, wanted, strength)
    while psnr_db(pixels[..., :3], marked, visible) < LEAST_PSNR_DB and strength > 0.1:
        strength *= _WEAKER
        marked = _marked(rgb, visible, wanted, strength)
    pixels[..., :3] = marked
    made = Image.fromarray(pixels)
    made.info = dict(image.info)
    return made


def psnr_db(before: U8, after: U8, visible: F32) -> float:
    """Peak signal to noise over the visible pixels, [H, W, 3] against the same; infinite where they are equal."""
    errors = ((before.astype(np.float32) - after) ** 2 * (visible > 0)).sum()
    count = (np.broadcast_to(visible > 0, before.shape)).sum()
    return float(10 * np.log10(255**2 * count / errors)) if errors else float("inf")


def _marked(rgb: F32, visible: F32, wanted: F32, strength: float) -> U8:
    """The pixels with waves that have the wanted signs: only as high as is missing, none where it cannot be had."""
    white = 255 * (1 - visible)
    heights, busy = waves(blueness(rgb * visible + white))
    bearable = strength * np.minimum(_QUIET + _BUSY * busy, _HIGHEST)
    missing = bearable - heights * wanted
    asked = np.where(missing > 2 * bearable, 0, missing.clip(0)) * wanted
    added = asked
    for last in range(_PASSES):
        mark = _enlarged(drawn(added), (rgb.shape[1], rgb.shape[0]))[..., None] * ADDED
        made = np.floor((rgb + mark * (visible > 0)).clip(0, 255) + 0.5)
        if last == _PASSES - 1:
            break
        got = waves(blueness(made * visible + white))[0] - heights
        added = np.clip(added + asked - got, -2 * bearable, 2 * bearable) * (asked != 0)
    return made.astype(np.uint8)


def _enlarged(mark: F32, size: tuple[int, int]) -> F32:
    """f32[256, 256] at a picture's (width, height)."""
    if size == (SIDE, SIDE):
        return mark
    return np.asarray(Image.fromarray(mark).resize(size, Image.Resampling.BICUBIC), np.float32)
