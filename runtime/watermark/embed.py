"""A picture and 16 bits -> the picture with an invisible mark."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.watermark.carriers import ADDED, F32, SIDE, blueness, drawn, limited, order, waves
from runtime.watermark.words import signs_of

U8 = npt.NDArray[np.uint8]
LEAST_PSNR_DB = 42.0  # of the picture on white; stronger marks are made weaker until they keep it
_VISIBLE_DB = 38.0  # and over the visible pixels alone, which thin art has few of
_QUIET = 6.0  # the height of a wave in a flat block: up to 3 levels of blue and half a level of green
_BUSY = 0.2  # and what a block may bear for its own unrest
_HIGHEST = 8.0
_PASSES = 3  # rounding and the ends of the scale take some of a wave: twice more what is missing is added
_WEAKER, _WEAKEST = 0.8, 0.1
_STRONGER = (1.0, 1.5, 2.0, 3.0, 4.0)  # in busy blocks, where it hides, until the mark reads as
_ENOUGH = 14.0  # twice the reader's threshold, which leaves room for what happens to pictures


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
    visible = (pixels[..., 3:] / 255 if image.mode == "RGBA" else np.ones((1, 1, 1))).astype(np.float32)
    tried = (_marked(rgb, visible, wanted, strength) for strength in _STRONGER)
    marked = next(tried)
    for stronger in tried:
        if _score(marked, visible, wanted) >= _ENOUGH or not _close(pixels[..., :3], stronger, visible):
            break
        marked = stronger
    strength = 1.0
    while not _close(pixels[..., :3], marked, visible) and strength > _WEAKEST:
        strength *= _WEAKER
        marked = _marked(rgb, visible, wanted, strength)
    pixels[..., :3] = marked
    made = Image.fromarray(pixels)
    made.info = dict(image.info)
    return made


def psnr_db(before: U8, after: U8, visible: F32) -> tuple[float, float]:
    """Peak signal to noise of [H, W, 3]: of the picture on white, and over its visible pixels; infinite if equal."""
    off = before.astype(np.float32) - after
    on_white = float(((off * visible) ** 2).mean())
    seen = np.broadcast_to(visible > 0, before.shape)
    among = float((off**2 * seen).sum() / max(1, seen.sum()))
    whole, part = (10 * np.log10(255**2 / error) if error else np.inf for error in (on_white, among))
    return float(whole), float(part)


def _close(before: U8, after: U8, visible: F32) -> bool:
    whole, part = psnr_db(before, after, visible)
    return whole >= LEAST_PSNR_DB and part >= _VISIBLE_DB


def _score(marked: U8, visible: F32, wanted: F32) -> float:
    """What the reader will find in these pixels on white: agreement over spread."""
    counted = limited(*waves(blueness(marked * visible + 255 * (1 - visible))))
    spread = float(np.sqrt((counted**2).sum()))
    return float((counted * wanted).sum()) / spread if spread else 0.0


def _marked(rgb: F32, visible: F32, wanted: F32, strength: float) -> U8:
    """The pixels with waves that have the wanted signs: only as high as is missing, none where it cannot be had."""
    white = 255 * (1 - visible)
    heights, busy = waves(blueness(rgb * visible + white))
    bearable = np.minimum(min(strength, 1.5) * _QUIET + strength * _BUSY * busy, strength * _HIGHEST)
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
