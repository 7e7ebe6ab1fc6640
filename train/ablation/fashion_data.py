"""Fashion-MNIST (Xiao et al. 2017, 1708.07747, MIT licence) as a folder of shards: 60,000 pictures, ten captions.

A caption has 6,000 true pictures, which is what adversarial distillation is made for. The files are those of Debian's
package dataset-fashion-mnist, or of https://github.com/zalandoresearch/fashion-mnist.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import UserError
from train.data.shards import Record
from train.data.writer import write_dataset

CAPTIONS = (
    "a t-shirt",
    "trousers",
    "a pullover",
    "a dress",
    "a coat",
    "a sandal",
    "a shirt",
    "a sneaker",
    "a bag",
    "an ankle boot",
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train", "held_out": "t10k"}  # ours -> theirs
SIDE, BORDER = 32, 2  # of 28 pixels in the files
MAGIC = {1: 0x0801, 3: 0x0803}  # of an IDX file of bytes, by its number of axes


@dataclass(frozen=True)
class Picture:
    """One picture of the files."""

    record: Record
    gray: np.ndarray  # u8[28, 28], the thing white on black

    def draw(self, size: int) -> np.ndarray:
        """u8[32, 32, 3]: as it is, with a border. Raises ValueError for another size."""
        if size != SIDE:
            raise ValueError(f"Fashion-MNIST is drawn at {SIDE} pixels, not {size}")
        return np.pad(self.gray, BORDER)[..., None].repeat(3, 2)


def prepare(files: Path, out: Path) -> dict[str, Any]:
    """Write OUT/train-*.tar and held_out-*.tar; what is there is kept. Returns what dataset.json holds.

    Raises UserError where the files are absent or damaged.
    """
    splits = {ours: _pictures(files, ours, theirs) for ours, theirs in SPLITS.items()}
    facts = {"set": "fashion-mnist", "licences": {"Fashion-MNIST": "MIT"}}
    return write_dataset(splits, out, SIDE, facts)


def _pictures(files: Path, ours: str, theirs: str) -> list[Picture]:
    images, labels = (
        read_idx(files, f"{theirs}-images-idx3-ubyte", 3),
        read_idx(files, f"{theirs}-labels-idx1-ubyte", 1),
    )
    if len(images) != len(labels) or images.shape[1:] != (28, 28) or labels.max(initial=0) >= len(CAPTIONS):
        raise UserError(f"{files}: these are not Fashion-MNIST's pictures and labels")
    return [
        Picture(Record(f"{ours}-{index:05d}", (CAPTIONS[label],), facts={"class": int(label)}), gray)
        for index, (gray, label) in enumerate(zip(images, labels, strict=True))
    ]


def read_idx(files: Path, name: str, axes: int) -> np.ndarray:
    """An IDX file of bytes, plain or gzipped: u8 of `axes` axes. Raises UserError."""
    path = next((path for path in (files / f"{name}.gz", files / name) if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{files}: no {name} there; install Debian's dataset-fashion-mnist, or name the folder of Fashion-MNIST's "
            "four files with --files"
        )
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: it is damaged ({error})") from error
    head = np.frombuffer(data[: 4 * (1 + axes)], ">u4").astype(np.int64)
    if len(head) != 1 + axes or head[0] != MAGIC[axes] or len(data) != 4 * (1 + axes) + head[1:].prod():
        raise UserError(f"{path}: it is damaged, or no IDX file of {axes} axes")
    return np.frombuffer(data, np.uint8, offset=4 * (1 + axes)).reshape(head[1:])
