"""A file of JSON lines, at most one per row: in order of arrival during a run, in row order afterwards."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from runtime.files import whole_stream

_NONE = -1


def to_line(facts: dict[str, Any]) -> bytes:
    """JSON as people read it, in UTF-8; escaped to ASCII where the text is not valid UTF-8."""
    try:
        return json.dumps(facts, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(facts).encode("ascii") + b"\n"


class Ledger:
    """Rows' lines, each written once; 8 bytes of memory per row, however long the lines are.

    Lines are not synced to the disk one by one: what a power cut takes is rebuilt from the pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0  # rows that have a line
        self._offsets: array[int] = array("q")
        self._end = 0
        self._file: BinaryIO | None = None

    def __contains__(self, row: int) -> bool:
        return row < len(self._offsets) and self._offsets[row] != _NONE

    def read(self, valid: Callable[[dict[str, Any]], bool]) -> int:
        """Reads an earlier start's lines; returns how many were torn, duplicate or not `valid`, and dropped."""
        dropped = 0
        for offset, line in _lines(self.path):
            self._end = offset + len(line)
            row = _row_of(line, valid)
            if row is None or row in self:
                dropped += 1
            else:
                self._put(row, offset)
        return dropped

    def forget(self, row: int) -> None:
        """The row's line no longer counts; the next `sort` leaves it out."""
        if row in self:
            self._offsets[row] = _NONE
            self.count -= 1

    def add(self, row: int, line: bytes) -> None:
        """Appends the row's line, unless it has one."""
        if row in self:
            return
        if self._file is None:
            self._file = open(self.path, "ab")  # noqa: SIM115 (open for the length of a run)
        self._put(row, self._end)
        self._file.write(line)
        self._end += len(line)

    def flush(self) -> None:
        """Hands what was added to the operating system, where it survives a killed process."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def sort(self) -> None:
        """Rewrites the file whole: the lines that count, in row order. Without lines there is no file."""
        self.close()
        if self.count == 0:
            self.path.unlink(missing_ok=True)
            self._offsets, self._end = array("q"), 0
        elif not self._is_sorted():
            moved: array[int] = array("q", [_NONE]) * len(self._offsets)
            end = 0
            with whole_stream(self.path) as file:
                for row, line in self.lines():
                    file.write(line)
                    moved[row], end = end, end + len(line)
            self._offsets, self._end = moved, end

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Rows with their lines, in row order."""
        self.flush()
        if self.count == 0:
            return
        with open(self.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for row, offset in enumerate(self._offsets):
                if offset != _NONE:
                    data.seek(offset)
                    yield row, data.readline()

    def _put(self, row: int, offset: int) -> None:
        missing = row + 1 - len(self._offsets)
        if missing > 0:
            self._offsets.extend([_NONE] * missing)
        self._offsets[row] = offset
        self.count += 1

    def _is_sorted(self) -> bool:
        """Whether the file holds just the lines that count, one after the other."""
        end = 0
        for _, line in self.lines():
            end += len(line)
        offsets = [offset for offset in self._offsets if offset != _NONE]
        return end == self.path.stat().st_size and all(a < b for a, b in pairwise(offsets))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offsets and lines of a file, if it is there."""
    offset = 0
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                yield offset, line
                offset += len(line)


def _row_of(line: bytes, valid: Callable[[dict[str, Any]], bool]) -> int | None:
    """The row of a whole and valid line, else None."""
    try:
        facts = json.loads(line)
        row = facts["row"]
        good = line.endswith(b"\n") and type(row) is int and row >= 0 and valid(facts)
    except (ValueError, TypeError, KeyError):
        return None
    return row if good else None
