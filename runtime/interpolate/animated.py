"""Animated pictures (GIF, WebP, APNG, AVIF) as videos, through Pillow: FFmpeg lacks some, and their transparency."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from PIL import Image

from runtime.decoding import on_white
from runtime.image_files import is_whole
from runtime.interpolate.extent import Extent

FORMATS = ("GIF", "PNG", "WEBP", "AVIF")  # of which several frames are an animation, not pages
_TICK = Fraction(1, 1000)
_USUAL_MS, _LEAST_MS = 100, 10  # browsers show a frame of 10 ms or less for a tenth of a second


class Animation:
    """An open file, read as `video_file.Reader` is."""

    tick, sounds, hdr = _TICK, 0, ""

    def __init__(self, path: Path, image: Image.Image) -> None:
        """Use `opened`, which makes one."""
        self._path, self._image = path, image
        self.count: int | None = int(getattr(image, "n_frames", 1))
        self.extent = self._measured()
        self.rate = Fraction(max(1, self.extent.frames), max(1, round(self.extent.seconds / _TICK))) / _TICK

    def frames(self) -> Iterator[tuple[int, Image.Image]]:
        """(time in ticks, picture), in rising order, as far as the file can be read."""
        time = Fraction(0)
        for number in range(self.extent.frames):
            self._image.seek(number)
            picture = on_white(self._image)
            yield round(time / _TICK), picture
            time += self._duration()

    def _measured(self) -> Extent:
        """Reads all frames once."""
        count = self.count or 1
        seconds, read = Fraction(0), 0
        fault = "" if self._image.format == "AVIF" or is_whole(self._path.read_bytes()) else "its end is missing"
        try:
            for number in range(count):
                self._image.seek(number)
                self._image.load()
                seconds += self._duration()
                read = number + 1
        except Exception:  # Pillow's plugins raise a dozen exception types on damaged files
            fault = fault or f"frame {read + 1} cannot be decoded"
        step = seconds / read if read else Fraction(_USUAL_MS, 1000)
        return Extent(read, seconds, step, read, count, None, fault)

    def _duration(self) -> Fraction:
        """Seconds that the frame just read is shown."""
        said = Fraction(self._image.info.get("duration") or 0).limit_denominator(1000)
        return (said if said > _LEAST_MS else Fraction(_USUAL_MS)) / 1000


def is_animated(image: Image.Image) -> bool:
    """Whether an open picture is an animation."""
    return image.format in FORMATS and getattr(image, "n_frames", 1) > 1


@contextmanager
def opened(path: Path) -> Iterator[Animation | None]:
    """The animation in a file; None where it is something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
            animated = is_animated(image)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
            yield None
            return
        with image:
            yield Animation(path, image) if animated else None
