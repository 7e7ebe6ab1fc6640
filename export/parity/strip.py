"""Pictures of several exports beside PyTorch's, each with its difference made visible, in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from export.source import Floats
from runtime.files import write_whole

LEAST_SIDE = 128  # pixels; smaller pictures are enlarged to make room for their captions
AMPLIFIED = 8  # factor by which differences are amplified, around grey
BACKGROUND, INK, FAINT = "#e8e8e8", "black", "#505050"  # not white: pictures often have white edges


@dataclass(frozen=True)
class Column:
    """One export's pictures, f32[N,3,H,W] in [0,1]. title: two lines; pictures_db: each picture's PSNR."""

    title: tuple[str, str]
    pictures: Floats
    pictures_db: Sequence[float]


def write_strip(path: Path, prompts: Sequence[str], reference: Floats, columns: Sequence[Column]) -> None:
    """Write the PNG whole: a row per prompt; PyTorch's picture, then each export's and its difference times 8.

    reference: f32[N,3,H,W] in [0,1]. Raises runtime.errors.OutputError when the file cannot be written.
    """
    png = BytesIO()
    draw_strip(prompts, reference, columns).save(png, "PNG")
    write_whole(path, png.getvalue())


def draw_strip(prompts: Sequence[str], reference: Floats, columns: Sequence[Column]) -> Image.Image:
    """The whole strip."""
    times = -(-LEAST_SIDE // reference.shape[3])
    layout = Layout(times * reference.shape[2], times * reference.shape[3], 1 + 2 * len(columns), len(prompts))
    sheet = Image.new("RGB", layout.size, BACKGROUND)
    pen = Pen(ImageDraw.Draw(sheet), layout)
    titles = [("PyTorch", "fp32")]
    for column in columns:
        titles += [column.title, ("difference", f"x{AMPLIFIED}, 0 is grey")]
    for index, (first, second) in enumerate(titles):
        pen.text(layout.x(index), layout.gap, first, INK)
        pen.text(layout.x(index), layout.gap + layout.line, second, FAINT)
    for row, prompt in enumerate(prompts):
        pen.text(layout.x(0), layout.y(row) - layout.line, prompt, INK, layout.size[0])
        sheet.paste(shown(reference[row], times), (layout.x(0), layout.y(row)))
        for index, column in enumerate(columns):
            made, x = column.pictures[row], layout.x(1 + 2 * index)
            sheet.paste(shown(made, times), (x, layout.y(row)))
            apart, beside = made - reference[row], layout.x(2 + 2 * index)
            sheet.paste(shown(0.5 + AMPLIFIED * apart, times), (beside, layout.y(row)))
            pen.text(x, layout.below(row), f"{column.pictures_db[row]:.1f} dB", FAINT)
            pen.text(beside, layout.below(row), f"at most {np.abs(apart).max():.2g}", FAINT)
    return sheet


def shown(picture: Floats, times: int) -> Image.Image:
    """An image of f32[3,H,W], enlarged by a whole number; values outside [0,1], and NaN, are clipped."""
    whole = np.clip(np.nan_to_num(picture, nan=0.0), 0, 1).transpose(1, 2, 0)
    pixels = np.asarray(np.floor(whole * 255 + 0.5), np.uint8)
    return Image.fromarray(pixels.repeat(times, 0).repeat(times, 1))


@dataclass(frozen=True)
class Layout:
    """Layout in pixels."""

    height: int
    width: int
    count: int
    rows: int

    @property
    def letters(self) -> int:
        """Font size: a twelfth of a picture, within what is legible and what fits."""
        return min(28, max(12, self.width // 12))

    @property
    def line(self) -> int:
        return round(self.letters * 1.4)

    @property
    def gap(self) -> int:
        return max(6, self.width // 32)

    @property
    def step(self) -> int:
        """Distance from one row to the next: the picture, its PSNR, the next prompt."""
        return self.height + 2 * self.line + self.gap

    @property
    def size(self) -> tuple[int, int]:
        across = self.x(self.count - 1) + self.width + self.gap
        return across, self.below(self.rows - 1) + self.line + self.gap

    def x(self, column: int) -> int:
        """Left edge; an export and its difference are closer together than two exports."""
        return self.gap + column * self.width + (column + 1) // 2 * 3 * self.gap + column // 2 * self.gap // 2

    def y(self, row: int) -> int:
        """Top edge of a row's pictures, below the titles and the row's prompt."""
        return 2 * self.gap + 3 * self.line + row * self.step

    def below(self, row: int) -> int:
        """Where the figures of a row's pictures are written."""
        return self.y(row) + self.height + self.gap // 4


class Pen:
    """Writes text, cut off where its column ends."""

    def __init__(self, draw: ImageDraw.ImageDraw, layout: Layout) -> None:
        self.draw, self.layout = draw, layout
        self.font = ImageFont.load_default(layout.letters)

    def text(self, x: int, y: int, text: str, colour: str, width: int | None = None) -> None:
        """One line at (x, y); width: its limit, a column by default."""
        room = width or self.layout.width
        while text and self.draw.textlength(text, font=self.font) > room:
            text = text[:-1]
        self.draw.text((x, y), text, fill=colour, font=self.font)
