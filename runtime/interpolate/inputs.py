"""The pictures that an interpolation begins and ends with, and what their files say about themselves."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import Image

from runtime.image_files import SOURCE_TYPE, png_bytes, read_parameters, read_picture

_OURS = re.compile(r"\bVersion: addkit ")
_STILL = {"PNG", "WEBP", "JPEG"}  # whose `parameters` text can be read


@dataclass(frozen=True)
class Source:
    """A picture as its file has it."""

    path: str
    image: Image.Image
    parameters: str  # A1111's text, where the file is ours, else ""
    generated: bool  # whether the file is marked as made by a model

    @property
    def prompt(self) -> str:
        """The prompt that made it; "" if unknown."""
        return prompt_of(self.parameters)

    def as_png(self, fitted: Image.Image) -> bytes:
        """The fitted picture as a file that says about itself what the original does."""
        if self.generated:
            return png_bytes(fitted, self.parameters)
        buffer = io.BytesIO()
        fitted.save(buffer, "PNG")  # somebody's photograph must not be marked as made by a model
        return buffer.getvalue()


def read_source(path: str) -> Source:
    """A decoded picture; ValueError with one line when the file is not one."""
    image, data = read_picture(path)
    mark = str(image.info.get("xmp", image.info.get("XML:com.adobe.xmp", "")))
    text = _parameters(data) if image.format in _STILL else ""
    return Source(path, image, text if _OURS.search(text) else "", SOURCE_TYPE in mark)


def prompt_of(parameters: str) -> str:
    """The prompt in A1111's text: all before "Negative prompt: " or the last line, of settings."""
    lines = parameters.split("\n")
    ends = [i for i, line in enumerate(lines) if line.startswith(("Negative prompt: ", "Steps: "))]
    return "\n".join(lines[: ends[0] if ends else len(lines)]).strip()


def _parameters(data: bytes) -> str:
    try:
        return read_parameters(data)[1]
    except ValueError:
        return ""
