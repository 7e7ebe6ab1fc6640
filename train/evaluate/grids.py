"""Contact sheets: pictures in a grid, with captions where they are given, and comparisons side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from runtime.files import whole_file
from runtime.pixels import to_uint8

LARGEST = 256  # side in a comparison or a card; larger pictures are shown smaller
SMALLEST_FONT = 12  # pixels; captions of larger pictures grow with them, so that a sheet shown smaller stays legible
APART = 8  # pixels between the captions of neighbours, at least
WEBP_QUALITY = 85


@dataclass(frozen=True)
class Section:
    """Pictures u8[H, W, 3] of one size under a title, each with its caption or none of them."""

    title: str
    pictures: Sequence[np.ndarray]
    captions: Sequence[str] = ()


class Lettering:
    """A font, and texts laid out in it. size: pixels."""

    def __init__(self, size: int) -> None:
        self.size = max(SMALLEST_FONT, size)
        self.font = ImageFont.load_default(self.size)
        self.line = self.size + self.size // 3
        self.space = self.size // 3  # the font's own is a quarter, in whole pixels: words would run together

    @classmethod
    def under(cls, width: int) -> Lettering:
        """For captions of pictures that are `width` pixels wide."""
        return cls(round(width / 10))

    def wrap(self, text: str, width: int) -> list[str]:
        """The whole text in the fewest lines of `width` pixels, broken at commas where that takes no more lines."""
        return wrap(text, width, self.length)

    def length(self, text: str) -> float:
        """Pixels of one line."""
        words = text.split(" ")
        return sum(map(self.font.getlength, words)) + self.space * (len(words) - 1)

    def write(self, pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], fill: str = "black") -> None:
        for index, line in enumerate(lines):
            at: float = x
            for word in line.split(" "):
                pen.text((at, y + index * self.line), word, fill=fill, font=self.font)
                at += self.font.getlength(word) + self.space


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Lines whose measure is at most `width`, no character lost: a word that is too long by itself is broken."""
    lines = _filled(text.split(), width, measure)
    clauses = [_filled(clause.split(), width, measure) for clause in re.split(r"(?<=,)\s", text)]
    return [line for part in clauses for line in part] if sum(map(len, clauses)) <= len(lines) else lines


def _filled(words: Sequence[str], width: float, measure: Callable[[str], float]) -> list[str]:
    """Line after line, each with as many words as it holds."""
    lines: list[str] = []
    for word in words:
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines += _pieces(word, width, measure)
    return lines


def _pieces(word: str, width: float, measure: Callable[[str], float]) -> list[str]:
    pieces = [word[:1]]
    for letter in word[1:]:
        if measure(pieces[-1] + letter) <= width:
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


def save_grid(pictures: Tensor, path: Path, columns: int, captions: Sequence[str] = (), gap: int = 4) -> None:
    """Write f32[N, 3, H, W] in [-1, 1] as one sheet, `columns` per row, each with its caption underneath."""
    array = to_uint8(pictures.float().permute(0, 2, 3, 1).numpy())
    draw_grid(list(array), path, columns, captions, gap)


def draw_grid(
    pictures: Sequence[np.ndarray], path: Path, columns: int, captions: Sequence[str] = (), gap: int = 4
) -> None:
    """Write u8[H, W, 3] pictures as one sheet, PNG or WebP by the path's suffix."""
    draw_sections([Section("", pictures, captions)], path, columns, gap)


def draw_sections(sections: Sequence[Section], path: Path, columns: int, gap: int = 10) -> None:
    """Write sections below one another, each from a new row, as one sheet, PNG or WebP by the path's suffix."""
    width = sections[0].pictures[0].shape[1]
    strips = [strip for section in sections for strip in _strips(section, columns, width, gap)]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(strip.height for strip in strips) + gap), "white")
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    _write(sheet, path)


def _strips(section: Section, columns: int, width: int, gap: int) -> list[Image.Image]:
    """The title, where there is one, and the rows of a section, as wide as the sheet."""
    strips = [_title(section.title, columns, width, gap)] if section.title else []
    for start in range(0, len(section.pictures), columns):
        row = slice(start, start + columns)
        strips.append(_row(section.pictures[row], section.captions[row], columns, width, gap))
    return strips


def _title(title: str, columns: int, width: int, gap: int) -> Image.Image:
    letters, across = Lettering(round(width / 8)), columns * (width + gap) + gap
    lines = letters.wrap(title, across - 2 * gap)
    strip = Image.new("RGB", (across, len(lines) * letters.line + letters.line // 2 + gap), "white")
    letters.write(ImageDraw.Draw(strip), gap, gap + letters.line // 2, lines)
    return strip


def _row(pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int, width: int, gap: int) -> Image.Image:
    """Pictures side by side, and under them room for the longest of their captions."""
    letters, height = Lettering.under(width), pictures[0].shape[0]
    wrapped = [letters.wrap(caption, width + gap - APART) for caption in captions]
    label = max(map(len, wrapped)) * letters.line + gap if wrapped else 0
    strip = Image.new("RGB", (columns * (width + gap) + gap, gap + height + label), "white")
    pen = ImageDraw.Draw(strip)
    for index, picture in enumerate(pictures):
        x = gap + index * (width + gap)
        strip.paste(Image.fromarray(picture), (x, gap))
        if wrapped:
            letters.write(pen, x, gap + height + 2, wrapped[index])
    return strip


def draw_comparison(
    columns: Sequence[np.ndarray], path: Path, titles: Sequence[str], prompts: Sequence[str], gap: int = 6
) -> None:
    """Write a row per prompt, its text above it, and a column per title; columns: u8[N, H, W, 3] each, of any side."""
    side = min(LARGEST, max(pictures.shape[1] for pictures in columns))
    letters, across = Lettering(13), len(columns) * (side + gap) + gap
    heads = [letters.wrap(title, side) for title in titles]
    texts = [letters.wrap(prompt, across - 2 * gap) for prompt in prompts]
    head = 3 + letters.line * max(map(len, heads))
    labels = [3 + letters.line * len(lines) for lines in texts]
    sheet = Image.new("RGB", (across, head + sum(label + side + gap for label in labels)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, lines in enumerate(heads):
        letters.write(pen, gap + column * (side + gap), 3, lines)
    y = head
    for row, label in enumerate(labels):
        pen.line((0, y, across, y), fill="lightgray")
        letters.write(pen, gap, y + 2, texts[row], "dimgray")
        for column, pictures in enumerate(columns):
            picture = Image.fromarray(pictures[row]).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (gap + column * (side + gap), y + label))
        y += label + side + gap
    _write(sheet, path)


def shrunk(picture: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """u8[H, W, 3] as it is, or scaled down until its longer side is `largest`."""
    height, width, _ = picture.shape
    if max(height, width) <= largest:
        return picture
    scale = largest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _write(sheet: Image.Image, path: Path) -> None:
    """WebP or PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        if path.suffix.lower() == ".webp":
            sheet.save(partial, "WEBP", quality=WEBP_QUALITY, method=6)
        else:
            sheet.save(partial, "PNG")
