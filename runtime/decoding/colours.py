"""Any picture -> RGB or RGBA: upright, sRGB, 8 bits."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from runtime.decoding.files import BadPicture


def upright(image: Image.Image) -> Image.Image:
    """Any picture -> RGB, or RGBA where it has transparency: orientation obeyed, sRGB, 8 bits. Raises BadPicture."""
    turned = _in_8_bits(ImageOps.exif_transpose(image), wide=image.format in ("PNG", "PPM"))
    transparent = turned.has_transparency_data
    if turned.mode in ("P", "PA", "La", "RGBa", "LA"):
        turned = turned.convert("RGBA" if transparent else "RGB")
    colours = _in_srgb(turned)
    try:
        return colours.convert("RGBA" if transparent else "RGB")
    except ValueError as error:
        raise BadPicture(f"its colours ({colours.mode}) cannot be converted: save it as RGB") from error


def on_white(image: Image.Image) -> Image.Image:
    """Any picture -> RGB as `upright` makes it, transparent parts on white. Raises BadPicture."""
    made = upright(image)
    if made.mode == "RGB":
        return made
    return Image.alpha_composite(Image.new("RGBA", made.size, "white"), made).convert("RGB")


def _in_8_bits(image: Image.Image, wide: bool) -> Image.Image:
    """Grays of 16 and 32 bits scaled to 8: Pillow would cut them at 255. wide: mode I holds 16 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and wide):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        scaled = (values * 255 + 32767) // 65535
    elif image.mode == "I":
        raise BadPicture("its pixels are 32-bit integers, of which nothing says which is white: save 8 or 16 bits")
    elif image.mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():  # false for NaN, too
            raise BadPicture("its pixels are floats beyond 0 (black) to 1 (white): scale them, or save 8 or 16 bits")
        scaled = np.floor(values * 255 + 0.5)
    else:
        return image
    made = Image.fromarray(scaled.astype(np.uint8))
    made.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return made


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture's colours in sRGB, where it has another profile that fits its mode."""
    profile = image.info.get("icc_profile")
    if not profile and image.mode != "LAB":
        return image
    from PIL import ImageCms  # seldom needed

    if not profile:
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if image.mode not in ("L", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    with suppress(ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile, or another mode's: as if it had none
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" not in ImageCms.getProfileDescription(source):
            return _converted(image, source)
    return image


def _converted(image: Image.Image, source: Any) -> Image.Image:
    """From the colours of a profile (ImageCmsProfile) to sRGB's."""
    from PIL import ImageCms

    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    made = ImageCms.profileToProfile(image, source, target, outputMode=mode)
    assert made is not None  # only in place is nothing returned
    return made
