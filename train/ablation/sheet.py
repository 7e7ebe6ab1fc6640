"""A row's picture: ten classes, eight seeds each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.evaluate.grids import Section, draw_sections

SEEDS, SCALE = 8, 2


def draw_rows(sets: Sequence[tuple[str, np.ndarray]], classes: int, path: Path) -> None:
    """Write sets of pictures, each under its title, a class's SEEDS first pictures in a column group.

    sets: (title, u8[N, H, W, 3], class after class, as many of each).
    """
    sections = [Section(title, _chosen(pictures, classes)) for title, pictures in sets]
    draw_sections(sections, path, columns=2 * SEEDS, gap=2)


def _chosen(pictures: np.ndarray, classes: int) -> list[np.ndarray]:
    each = len(pictures) // classes
    index = [one * each + seed for one in range(classes) for seed in range(SEEDS)]
    return list(pictures[index].repeat(SCALE, 1).repeat(SCALE, 2))
