"""Pairs of noise and the picture that a teacher makes of it, on disk and as a student's update takes them.

A student that learns from unrelated noise and pictures learns each caption's mean; one that learns such pairs has
something to tell noises apart by (Luhman & Luhman 2021; DMD's regression loss, 2311.18828).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.errors import UserError
from runtime.noise import randn
from train.data.cache import read_tensors, write_tensors
from train.data.encoders import Encoders

PART = 1000  # pairs in a file


@dataclass
class PairRows:
    """This process's pairs of one update."""

    noise: Tensor  # f32[n, C, h, w], what the teacher began with
    latents: Tensor  # f32[n, C, h, w], what it ended with
    text: Tensor  # f32[n, 77, D]


def part_path(folder: Path, part: int) -> Path:
    """Where a folder's pairs from PART * part on are."""
    return folder / f"pairs-{part:05d}.safetensors"


def write_part(folder: Path, part: int, latents: Tensor, seeds: Sequence[int], captions: Sequence[str]) -> None:
    """latents: f32[n, C, h, w] of the seeds' noise. Raises UserError when the file cannot be written."""
    tensors = {"latents": latents.half(), "seeds": torch.tensor(list(seeds))}
    write_tensors(part_path(folder, part), tensors, {"captions": list(captions)})


class Pairs:
    """All pairs of a folder in memory; its only position is the rng."""

    def __init__(self, folder: Path, encoders: Encoders, shape: tuple[int, ...]) -> None:
        """shape: (C, h, w) of the student's latents. Raises UserError where there are none that fit."""
        paths = sorted(folder.glob("pairs-*.safetensors"))
        parts = [found for path in paths if (found := read_tensors(path))]
        if not parts or len(parts) < len(paths):
            what = "no pairs" if not paths else "damaged files of pairs"
            raise UserError(f"pairs={folder}: {what} there; python -m train.pairs makes them")
        self.latents = torch.cat([tensors["latents"] for tensors, _ in parts])
        self.seeds = torch.cat([tensors["seeds"] for tensors, _ in parts])
        if self.latents.shape[1:] != shape:
            raise UserError(
                f"pairs={folder}: latents of {list(self.latents.shape[1:])}, the teacher's are {list(shape)}"
            )
        captions = [caption for _, facts in parts for caption in facts["captions"]]
        texts = sorted(set(captions))
        rows = {text: row for row, text in enumerate(texts)}
        self.rows = torch.tensor([rows[caption] for caption in captions])
        self.states, _ = encoders.captions(texts)
        self.device = torch.device(encoders.device)

    def take(self, total: int, rows: slice, rng: np.random.Generator) -> PairRows:
        """Rows `rows` of an update of `total` pairs over all processes; every process passes an equal rng."""
        index = torch.from_numpy(rng.integers(len(self.latents), size=total)[rows])
        shape = tuple(self.latents.shape[1:])
        noise = np.stack([randn(int(seed), shape) for seed in self.seeds[index]])
        return PairRows(
            torch.from_numpy(noise).to(self.device),
            self.latents[index].float().to(self.device),
            self.states[self.rows[index]].float().to(self.device),
        )
