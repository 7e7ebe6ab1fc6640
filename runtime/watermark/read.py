"""A picture -> whether it holds a mark, and which 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from runtime.decoding import on_white
from runtime.watermark.carriers import F32, blueness, limited, order, waves
from runtime.watermark.words import SIGNS, most_likely

# In standard deviations. The signs of an unmarked picture's waves have nothing to do with our random ones: then, by
# Hoeffding (1963), a given code reaches t with a chance of at most exp(-t^2 / 2), whatever the picture shows, and any
# of the 65,536 reaches 6.4 in fewer than 1 of 10,000 pictures. Unmarked pictures of the shipped model, which resemble
# one another, came up to 6.3 in 145; marked ones are above 9 even after JPEG 75.
THRESHOLD = 7.0


@dataclass(frozen=True)
class Reading:
    """What a picture holds: `code` 0 to 65535, or None where it is not marked; `score` is compared with THRESHOLD."""

    code: int | None
    score: float


def read_mark(image: Image.Image) -> Reading:
    """Reads any picture that `decoding.on_white` takes; an empty one holds no mark. Raises BadPicture as it does."""
    if 0 in image.size:
        return Reading(None, 0.0)
    return read_blueness(blueness(np.asarray(on_white(image))))


def read_blueness(colour: F32) -> Reading:
    """Reads f32[256, 256], as `blueness` gives it."""
    counted = limited(*waves(colour))
    spread = float(np.sqrt((counted**2).sum()))
    if spread < 1e-2:  # flat: what is left is rounding
        return Reading(None, 0.0)
    which, signs = order()
    numbers = np.bincount(which.ravel(), (counted * signs).ravel(), SIGNS)
    code, agreement = most_likely(numbers.astype(np.float32))
    score = agreement / spread
    return Reading(code if code >= 0 and score >= THRESHOLD else None, round(score, 3))
