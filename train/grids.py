"""Contact sheets: pictures in a grid, with captions where they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from runtime.pixels import to_uint8


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
            pen.text((x + 2, y + height), captions[index][: width // 6], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
