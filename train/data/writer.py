"""Pictures with captions to WebDataset shards, resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime.decoding import BadPicture
from runtime.errors import UserError
from runtime.files import write_json, write_text
from train.data.pictures import encode_png
from train.data.shards import SHARD_SIZE, Record, write_shard
from train.progress import progress

FEW = 16  # pictures: for so many no processes are started
CHECKED = 16  # side in pixels at which a picture is drawn to see whether it can be


class Drawable(Protocol):
    """A record and the means to draw its picture."""

    @property
    def record(self) -> Record: ...

    def draw(self, size: int) -> np.ndarray: ...


Drawn = tuple[Drawable, bytes | None, str]  # its PNG, or why there is none


def is_held_out(key: str, fraction: float) -> bool:
    """Whether the record of this key is held out: decided by a hash, so it never moves as others join."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32


def write_dataset(
    splits: Mapping[str, Sequence[Drawable]], out: Path, size: int, facts: Mapping[str, object]
) -> dict[str, object]:
    """Draw the sources and write `SPLIT-*.tar` of each split, `skipped.jsonl` and `dataset.json`, with the facts.

    A shard that is already there is kept, so that an interrupted run continues where it stopped; a folder made
    of other sources is refused. Returns what dataset.json holds. Raises UserError also when no picture is good.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, splits, size)
    with Hands() as hands:
        counts = {split: _write_split(members, out, split, size, hands) for split, members in splits.items()}
    skipped = _collect_skipped(out)
    if not counts["train"]:
        raise UserError(f"{out}: no picture for training could be read; {out / 'skipped.jsonl'} says why")
    summary: dict[str, object] = {"pictures": counts, "skipped": skipped, "image_size": size, **facts}
    write_json(out / "dataset.json", summary)
    return summary


def unreadable(sources: Sequence[Drawable]) -> list[str]:
    """A line on each source that cannot be drawn; nothing is written."""
    with Hands() as hands, progress("checking", len(sources)) as advance:
        return [line for line in map(_why_not, hands.drawn(sources, CHECKED, advance)) if line]


class Hands:
    """Processes that draw, started when many pictures are asked for the first time, and kept: a start takes seconds."""

    def __init__(self) -> None:
        self.pool: Pool | None = None

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()

    def drawn(self, part: Sequence[Drawable], size: int, advance: Callable[[int], None]) -> Iterator[Drawn]:
        """Each source's picture, in their order."""
        jobs = ((source, size) for source in part)
        for drawn in map(_draw, jobs) if len(part) <= FEW else self._started().imap(_draw, jobs, chunksize=16):
            advance(1)
            yield drawn

    def _started(self) -> Pool:
        if self.pool is None:
            self.pool = multiprocessing.get_context("spawn").Pool(min(4, multiprocessing.cpu_count()))
        return self.pool


def _write_split(members: Sequence[Drawable], out: Path, split: str, size: int, hands: Hands) -> int:
    total = 0
    with progress(f"drawing {split}", len(members)) as advance:
        for index in range(0, len(members), SHARD_SIZE):
            part = members[index : index + SHARD_SIZE]
            shard = out / f"{split}-{index // SHARD_SIZE:05d}.tar"
            if not shard.is_file():
                _write_part(part, shard, size, hands, advance)
            else:
                advance(len(part))
            total += len(part) - _count_lines(_skip_file(shard))
    return total


def _write_part(part: Sequence[Drawable], shard: Path, size: int, hands: Hands, advance: Callable[[int], None]) -> None:
    drawn: list[tuple[Record, bytes]] = []
    skipped: list[str] = []
    for source, png, why in hands.drawn(part, size, advance):
        if png is None:
            skipped.append(json.dumps({"key": source.record.key, "file": _file_of(source), "why": why}))
        else:
            drawn.append((source.record, png))
    # The list of skipped files first: a shard that exists is complete, its list included.
    write_text(_skip_file(shard), "".join(f"{line}\n" for line in skipped))
    write_shard(shard, drawn)


def _why_not(drawn: Drawn) -> str:
    source, png, why = drawn
    return "" if png is not None else f"{_file_of(source)}: {why}"


def _draw(job: tuple[Drawable, int]) -> Drawn:
    source, size = job
    try:
        return source, encode_png(source.draw(size)), ""
    except BadPicture as error:
        return source, None, str(error)


def _file_of(source: Drawable) -> str:
    return str(getattr(source, "relative", source.record.key))


def _skip_file(shard: Path) -> Path:
    return shard.with_suffix(".skipped")


def _count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _collect_skipped(out: Path) -> int:
    text = "".join(path.read_text() for path in sorted(out.glob("*.skipped")))
    write_text(out / "skipped.jsonl", text)
    return len(text.splitlines())


def _claim(out: Path, splits: Mapping[str, Sequence[Drawable]], size: int) -> None:
    """Refuse to mix the shards of one set of sources, or of one way to split it, with another's."""
    rows = (f"{split} {_said_of(source)}" for split, sources in splits.items() for source in sources)
    digest = hashlib.sha256("\n".join([*rows, str(size)]).encode()).hexdigest()
    mark = out / ".sources"
    if mark.is_file() and mark.read_text() != digest:
        raise UserError(
            f"{out} holds shards of other pictures (or they changed), or of another split or size; choose another "
            "--out, or delete that folder"
        )
    if not mark.is_file():
        if any(out.glob("*.tar")):
            raise UserError(f"{out} holds shards of unknown origin; choose another --out")
        write_text(mark, digest)


def _said_of(source: Drawable) -> str:
    """What tells a source from another, and where it is a file also from what it held before."""
    mark = getattr(source, "mark", "")
    return f"{source.record.key} {source.record.captions}" + (f" {mark}" if mark else "")
