"""Frames -> the bytes of an animated WebP or APNG, marked as made by a model like all our pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from runtime.image_files import DEFAULT_QUALITY, metadata

SUFFIXES = {"webp": ".webp", "png": ".png"}
LEAST_FPS, MOST_FPS = 0.1, 100.0  # WebP's viewers slow down what is shorter than 10 ms


def check_fps(fps: float) -> float:
    """The rate itself; ValueError unless it is LEAST_FPS to MOST_FPS."""
    if not LEAST_FPS <= fps <= MOST_FPS:
        raise ValueError(f"fps must be {LEAST_FPS} to {MOST_FPS:g}, not {fps}")
    return fps


def encode_animation(frames: Sequence[Image.Image], format: str, fps: float, parameters: str = "") -> bytes:
    """The file: `format` is a key of SUFFIXES. It loops forever; a WebP's times are whole milliseconds.

    Raises ValueError on another format or rate, and without frames.
    """
    if format not in SUFFIXES:
        raise ValueError(f"there is no animation format {format!r}: choose {', '.join(SUFFIXES)}")
    if not frames:
        raise ValueError("an animation needs a frame")
    options: dict[str, Any] = metadata(parameters, format)
    if format == "webp":
        options |= {"quality": DEFAULT_QUALITY, "method": 4}
    buffer = io.BytesIO()
    first, *others = frames
    first.save(
        buffer, format, save_all=True, append_images=others, duration=round(1000 / check_fps(fps)), loop=0, **options
    )
    return buffer.getvalue()
