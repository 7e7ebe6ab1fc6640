"""The rows left to do, in a file that every worker reads its chunks from: memory does not grow with the prompts."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from runtime.batch.rows import Row
from runtime.files import whole_stream

MOST_ROWS = 256  # per chunk: the most that one worker call loses when it fails, or keeps the others waiting at the end
CHUNKS_A_WORKER = 32  # of a short run, so that no worker is idle for long at its end


@dataclass(frozen=True)
class Plan:
    """What `write` found and wrote: 12 bytes of memory per row left to do."""

    rows: int  # all there are
    sha256: str  # of all rows' identities
    prefix_sha256: str | None  # of the first `prefix` rows; None when there are fewer
    starts: array[int]  # offsets in the file of rows to do, of units that cannot be divided
    counts: array[int]  # rows of each unit
    todo: int  # rows left to do

    def chunks(self, workers: int, unit: int) -> Iterator[dict[str, int]]:
        """Consecutive units, grouped for one call of a worker: {"offset", "rows"}."""
        size = 1 if unit > 1 else max(1, min(MOST_ROWS, self.todo // (workers * CHUNKS_A_WORKER)))
        units = iter(zip(self.starts, self.counts, strict=True))
        while group := list(islice(units, size)):
            yield {"offset": group[0][0], "rows": sum(count for _, count in group)}


def write(rows: Iterable[Row], path: Path, unit: int, settled: Callable[[int], bool], prefix: int = 0) -> Plan:
    """Writes the units with any row not `settled`; a unit is `unit` rows that are made together.

    Reads all rows once, so that an error in the last one is raised before any is made.
    """
    digest, starts, counts = hashlib.sha256(), array("Q"), array("L")
    number, prefix_sha256 = 0, digest.hexdigest() if prefix == 0 else None
    with whole_stream(path) as file:
        for _, group in groupby(rows, lambda row: row.row // unit):
            members = list(group)
            for row in members:
                digest.update(row.identity())
                number += 1
                if number == prefix:
                    prefix_sha256 = digest.hexdigest()
            if not all(settled(row.row) for row in members):
                starts.append(file.tell())
                counts.append(len(members))
                file.writelines(row.to_line() for row in members)
    return Plan(number, digest.hexdigest(), prefix_sha256, starts, counts, sum(counts))


def read(path: Path) -> Iterator[Row]:
    """The rows of such a file."""
    with open(path, "rb") as file:
        for line in file:
            yield Row.from_line(line)
