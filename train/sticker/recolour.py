"""Another colour for the main part of a cut-out picture: shading, outlines and small parts stay."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from train.sticker.words import COLOURS

HUES = 256  # steps of the circle in Pillow's HSV
NEAR = 30  # steps of hue around the main one that count as one part
WINDOW = 14  # steps to either side over which hues are counted together
VIVID = 0.25  # saturation from which a hue counts


def recolour(picture: Image.Image, colour: str) -> Image.Image:
    """RGBA -> RGBA of the same size whose main part has the colour, a key of `train.sticker.words.COLOURS`.

    The main part is what shares the most frequent hue, or what is pale or grey where that is more.
    """
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.float32)
    alpha = np.asarray(picture)[..., 3].astype(np.float32) / 255
    part, main_hue = main_part(hsv, alpha)
    part = np.asarray(Image.fromarray(part).convert("L").filter(ImageFilter.MedianFilter(5))) > 127  # no lone pixels
    target_hue, saturation, value = COLOURS[colour]
    turned = target_hue / 360 * HUES + (0.4 * _distance(hsv[..., 0], main_hue) if main_hue is not None else 0)
    new = np.stack(
        [
            np.broadcast_to(turned % HUES, alpha.shape),
            _towards(hsv[..., 1], saturation, part, spread=0.5 if main_hue is not None else 0.0),
            _towards(hsv[..., 2], value, part, spread=1.0),
        ],
        axis=-1,
    )
    new = np.where(part[..., None], new, hsv).round().clip(0, 255).astype(np.uint8)
    rgb = Image.fromarray(new, "HSV").convert("RGB")
    rgb.putalpha(picture.getchannel("A"))
    return rgb


def main_part(hsv: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, float | None]:
    """(bool[H, W], main hue in steps) of f32[H, W, 3] and alpha f32[H, W]; the hue is None for a pale main part."""
    hue, saturation, value = hsv[..., 0], hsv[..., 1] / 255, hsv[..., 2] / 255
    vivid = (saturation > VIVID) & (value > 0.2)
    counts = np.bincount(hue[vivid].astype(int), weights=(alpha * saturation)[vivid], minlength=HUES)
    around = np.arange(HUES)[:, None] + np.arange(-WINDOW, WINDOW + 1)
    main_hue = _mean_hue(counts, float(counts.take(around, mode="wrap").sum(axis=1).argmax()))
    coloured = vivid & (np.abs(_distance(hue, main_hue)) <= NEAR)
    pale = ~vivid & (value > 0.35)
    if (alpha * pale).sum() > 1.5 * (alpha * coloured).sum():
        return pale, None
    return coloured, main_hue


def _mean_hue(counts: np.ndarray, peak: float) -> float:
    """The mean of the hues within a window about the peak: the window is as full anywhere around a lone hue."""
    distance = _distance(np.arange(HUES), peak)
    weights = counts * (np.abs(distance) <= WINDOW)
    return (peak + float((weights * distance).sum() / max(weights.sum(), 1e-9))) % HUES


def _distance(hue: np.ndarray, main_hue: float) -> np.ndarray:
    return (hue - main_hue + HUES / 2) % HUES - HUES / 2


def _towards(channel: np.ndarray, target: float, part: np.ndarray, spread: float) -> np.ndarray:
    """The channel with its mean over the part at `target`, its differences from there scaled by `spread`."""
    mean = channel[part].mean() if part.any() else 0.0
    return target * 255 + spread * (channel - mean)
