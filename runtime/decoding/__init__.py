"""A picture file's bytes -> 8-bit sRGB, upright: the one decoder of generation, import, training and evaluation."""

from __future__ import annotations

from PIL import Image

from runtime.decoding.colours import on_white, upright
from runtime.decoding.files import MAX_PIXELS, BadPicture, opened

__all__ = ["MAX_PIXELS", "BadPicture", "decoded", "on_white", "opened", "upright"]


def decoded(data: bytes) -> Image.Image:
    """A picture file (PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP, ...) -> its first frame in `upright`'s form.

    Raises BadPicture, a ValueError with one line.
    """
    return upright(opened(data))
