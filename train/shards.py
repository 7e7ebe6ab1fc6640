"""WebDataset shards of captioned pictures: written whole or not at all, read as records."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train.errors import UserError

SHARD_SIZE = 1000


@dataclass(frozen=True)
class Record:
    """One captioned picture."""

    key: str
    captions: tuple[str, ...]  # the plainest first
    style: str
    concept: str  # the unit of the held-out split
    group: str
    weight: float  # how often it is drawn in training, relative to 1


def write_shard(path: Path, records: Iterable[tuple[Record, bytes]]) -> int:
    """Write (record, PNG bytes) pairs as one .tar shard, atomically. Returns how many were written."""
    import webdataset

    partial = path.with_name(f".{path.name}.partial")
    count = 0
    with partial.open("wb") as stream:
        writer = webdataset.TarWriter(stream, encoder=False, mtime=0.0)
        for record, png in records:
            facts = {key: value for key, value in asdict(record).items() if key != "key"}
            writer.write({"__key__": record.key, "png": png, "json": json.dumps(facts).encode()})
            count += 1
        writer.close()
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    return count


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards of a split ("train" or "held_out"), in order. Raises UserError if there are none."""
    paths = sorted(Path(folder).glob(f"{split}-*.tar"))
    if not paths:
        raise UserError(
            f"{folder}: no {split}-*.tar shards there; make them with `python -m train.data prepare --out {folder}`"
        )
    return paths


def read_records(folder: Path, split: str) -> Iterator[tuple[Record, np.ndarray]]:
    """Yield (record, u8[H, W, 3]) of every picture of a split, in the order of writing."""
    import webdataset

    urls = [str(path) for path in shard_paths(folder, split)]
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        facts = json.loads(sample["json"])
        facts["captions"] = tuple(facts["captions"])
        with Image.open(io.BytesIO(sample["png"])) as image:
            yield Record(key=sample["__key__"], **facts), np.asarray(image.convert("RGB"))
