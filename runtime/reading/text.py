"""UTF-8 text a line at a time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def text_lines(file: Iterable[bytes], where: str) -> Iterator[str]:
    """Lines of a binary file, decoded, with their ends; only a newline ends one. A byte-order mark is dropped.

    where: the file's name for errors. Raises ValueError that names file and line where it is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        if number == 1 and line.startswith(_UTF16):
            raise ValueError(f"{where}, line 1: it is UTF-16, not UTF-8 text: save it as UTF-8")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}, line {number}: it is not UTF-8 (byte {error.start + 1})") from error


def text_of(data: bytes, where: str) -> str:
    """A whole text file's bytes, decoded as `text_lines` does. Raises ValueError."""
    return "".join(text_lines(io.BytesIO(data), where))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends. Raises ValueError that names file and line, or OSError."""
    with path.open("rb") as file:
        return [line.rstrip("\r\n") for line in text_lines(file, str(path))]
