"""Any picture to a square RGB array: SVG rasterising, white background."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from runtime.decoding import BadPicture, decoded

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'  # some drawings refer to their parts by it


def decode(data: bytes, size: int) -> np.ndarray:
    """Raster file bytes (PNG, JPEG, WebP, ...) -> u8[size, size, 3] on white, aspect kept, centred.

    Raises BadPicture.
    """
    return fit_square(decode_rgba(data), size)


def decode_rgba(data: bytes) -> Image.Image:
    """Raster file bytes -> RGBA picture of its own size. Raises BadPicture."""
    image = decoded(data)
    if min(image.size) < 8:
        raise BadPicture(f"too small: {image.width}x{image.height} pixels")
    return image.convert("RGBA")


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """PIL image, any mode -> u8[size, size, 3]: whole picture, centred on a white square."""
    rgba = image.convert("RGBA")
    rgba.thumbnail((size, size), Image.Resampling.LANCZOS)
    if max(rgba.size) < size:
        scale = size / max(rgba.size)
        rgba = rgba.resize([max(1, round(side * scale)) for side in rgba.size], Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (size, size), "white")
    offset = ((size - rgba.width) // 2, (size - rgba.height) // 2)
    canvas.alpha_composite(rgba, offset)
    return np.asarray(canvas.convert("RGB"))


def rasterize_svg(svg: str, size: int) -> np.ndarray:
    """SVG text -> u8[size, size, 3] on white. Raises BadPicture."""
    return fit_square(draw_svg(svg, size, "white"), size)


def draw_svg(svg: str, size: int, background: str | None = None) -> Image.Image:
    """SVG text -> RGBA of size x size, transparent where there is no background. Raises BadPicture."""
    import resvg_py

    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background=background))
    except Exception as error:  # the renderer raises plain ValueError and RuntimeError alike
        raise BadPicture(f"not a drawable SVG: {error}") from error
    return decode_rgba(png)


def visible_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of an RGBA picture without its transparent border; None where nothing is to be seen."""
    return picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()


def icon_svg(icons: Mapping[str, Any], icon: Mapping[str, Any]) -> str:
    """The SVG text of an icon of Iconify's JSON: its own width and height, else those of the set, else 16."""
    side = icons.get("width", 16)
    width, height = icon.get("width", side), icon.get("height", icons.get("height", side))
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {XLINK} viewBox="0 0 {width} {height}">'
    return f"{opening}{icon['body']}</svg>"


def encode_png(pixels: np.ndarray) -> bytes:
    """u8[H, W, 3] -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
