"""The contact sheet of an evaluation: a prompt a row, and the seeds of real pictures, teacher and student across it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from train.evaluate.distributions.vendi import SEEDS
from train.evaluate.grids import Section, draw_sections, shrunk

SIDE = 72
MOST = 30  # rows
GAP = 6


def write_sheet(path: Path, rows: Mapping[str, np.ndarray], prompts: Sequence[str]) -> None:
    """Write u8[prompts, SEEDS, side, side, 3] of each who, side by side, for MOST prompts spread over the list."""
    chosen = np.linspace(0, len(prompts) - 1, min(MOST, len(prompts))).astype(int)
    blank = np.full((SIDE, SIDE // 3, 3), 255, np.uint8)
    sections = []
    for place, row in enumerate(chosen):
        pictures: list[np.ndarray] = []
        for who in rows.values():
            pictures += [blank] if pictures else []
            pictures += [shrunk(picture, SIDE) for picture in who[row]]
        heads = f"   [{SEEDS} seeds each, from the left: {', '.join(rows)}]" if place == 0 else ""
        sections.append(Section(f"{prompts[row]}{heads}", pictures))
    draw_sections(sections, path, columns=(SEEDS + 1) * len(rows) - 1, gap=GAP)
