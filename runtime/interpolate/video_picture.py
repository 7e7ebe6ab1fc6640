"""A decoded frame -> the picture that a player shows: upright, of square pixels, RGB, transparent parts on white."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

from PIL import Image

from runtime.decoding import on_white

HDR = {16: "PQ (HDR10, Dolby Vision)", 18: "HLG"}  # transfer characteristics of ITU-T H.273
_ONE = 1 << 16  # in an MP4's display matrix
_UPRIGHT = {  # rows of the matrix: where a step to the right goes, where a step down goes
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def shown(frame: Any, aspect: Fraction | None = None) -> Image.Image:
    """The picture of PyAV's frame. aspect: width / height of one of its pixels; None: square ones."""
    return upright(squared(_colours(frame), aspect), frame)


def squared(picture: Image.Image, aspect: Fraction | None) -> Image.Image:
    """With square pixels: the shorter side of a pixel is drawn out, so that none is lost."""
    if not aspect or aspect == 1:
        return picture
    width, height = picture.size
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return picture.resize(size, Image.Resampling.BICUBIC)


def upright(picture: Image.Image, frame: Any) -> Image.Image:
    """Turned or mirrored as the frame's display matrix says."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return picture
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    sides = tuple(round(value / _ONE) for value in (a, b, c, d))
    if sides not in _UPRIGHT:  # some other angle
        return picture.rotate(frame.rotation, expand=True, fillcolor="white")
    turn = _UPRIGHT[sides]
    return picture if turn is None else picture.transpose(turn)


def _colours(frame: Any) -> Image.Image:
    form = frame.format
    if form.has_palette or any(component.is_alpha for component in form.components):
        return on_white(Image.fromarray(frame.to_ndarray(format="rgba")))
    picture: Image.Image = frame.to_image()
    return picture
