"""A picture file's bytes -> the picture as it is stored, or one line on why not."""

from __future__ import annotations

import io
import warnings

from PIL import Image

# Larger pictures are refused before a pixel is decoded: a file's header may claim anything.
MAX_PIXELS = 120_000_000
# What the first bytes of files that are no pictures, or that Pillow does not know, say they are.
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_SIGNS = (
    (b"\xff\x0a", "a JPEG XL picture: convert it to PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture: convert it to PNG or JPEG"),
    (b"%PDF", "a PDF document, not a picture: export its page as PNG"),
    (b"PK\x03\x04", "a zip archive, not a picture"),
)
_TEXTS = (
    (b"<svg", "an SVG drawing: export it as PNG"),
    (b"<html", "a web page, not a picture: download the file itself"),
)


class BadPicture(ValueError):
    """A picture that cannot be used; the message says why, and what to do."""


def opened(data: bytes) -> Image.Image:
    """A picture file -> its first frame as it is stored, with what the file says of it. Raises BadPicture."""
    _know_heic(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own limit, and oddities that it reads all the same
        try:
            image = Image.open(io.BytesIO(data))
        except Image.DecompressionBombError as error:
            raise BadPicture(f"too large: {error}") from error
        except Exception as error:  # Pillow's plugins raise a dozen exception types on damaged files
            raise BadPicture(_why(data)) from error
        _check_size(image.size)
        try:
            image.load()
        except Exception as error:
            raise BadPicture("it is damaged: not all of its pixels can be read") from error
        return image


def _check_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise BadPicture(f"too large: {size[0]}x{size[1]} pixels, at most {MAX_PIXELS} are decoded")


def _know_heic(data: bytes) -> None:
    """Have Pillow read HEIC where pillow-heif is installed. Raises BadPicture where it is not."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise BadPicture("a HEIC picture: `pip install pillow-heif`, or convert it to JPEG") from error
    register_heif_opener()


def _why(data: bytes) -> str:
    """One line on a file that is no picture."""
    if not data:
        return "it is empty"
    start = data[:1024].lower()
    found = [what for sign, what in _SIGNS if data.startswith(sign)] + [what for sign, what in _TEXTS if sign in start]
    if found:
        return found[0]
    if data[4:8] == b"ftyp":
        return "a video, not a picture: save a frame of it as PNG"
    return "it is not a readable picture, or it is damaged"
