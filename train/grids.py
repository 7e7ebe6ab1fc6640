"""Contact sheets: pictures in a grid, with captions where they are given, and comparisons side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from runtime.pixels import to_uint8
from train.files import replace_file

LARGEST = 256  # side in a comparison; larger pictures are shown smaller


def save_grid(pictures: Tensor, path: Path, columns: int, captions: Sequence[str] = (), gap: int = 4) -> None:
    """Write f32[N, 3, H, W] in [-1, 1] as one PNG, `columns` a row, each with its caption underneath."""
    array = to_uint8(pictures.float().permute(0, 2, 3, 1).numpy())
    draw_grid(list(array), path, columns, captions, gap)


def draw_grid(
    pictures: Sequence[np.ndarray], path: Path, columns: int, captions: Sequence[str] = (), gap: int = 4
) -> None:
    """Write u8[H, W, 3] pictures as one PNG sheet."""
    height, width, _ = pictures[0].shape
    label = 14 if captions else 0
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + label) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x = gap + (index % columns) * (width + gap)
        y = gap + (index // columns) * (height + gap + label)
        sheet.paste(Image.fromarray(picture), (x, y))
        if captions:
            pen.text((x + 2, y + height), _fitting(captions[index], width, pen), fill="black")
    _write(sheet, path)


def draw_comparison(
    columns: Sequence[np.ndarray], path: Path, titles: Sequence[str], prompts: Sequence[str], gap: int = 6
) -> None:
    """Write one row a prompt, its text above it, and one column a title; columns: u8[N, H, W, 3] each, of any side."""
    side, label = min(LARGEST, max(pictures.shape[1] for pictures in columns)), 20
    font = ImageFont.load_default(13)
    size = len(columns) * (side + gap) + gap, label + len(prompts) * (side + label + gap)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((gap + column * (side + gap), 3), title, fill="black", font=font)
    for row, prompt in enumerate(prompts):
        y = label + row * (side + label + gap)
        pen.line((0, y, size[0], y), fill="lightgray")
        pen.text((gap, y + 2), prompt, fill="dimgray", font=font)
        for column, pictures in enumerate(columns):
            picture = Image.fromarray(pictures[row]).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (gap + column * (side + gap), y + label))
    _write(sheet, path)


def _fitting(text: str, width: int, pen: ImageDraw.ImageDraw) -> str:
    """As much of the text as goes into `width` pixels."""
    while pen.textlength(text) > width:
        text = text[:-1]
    return text


def _write(sheet: Image.Image, path: Path) -> None:
    """PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial:
        sheet.save(partial, "PNG")
