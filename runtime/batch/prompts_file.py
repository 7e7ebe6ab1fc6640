"""The prompts of a batch as records: a CSV, text or JSON lines file, read one line at a time."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

FORMATS = ("csv", "txt", "jsonl")
KNOWN = ("prompt", "seed", "width", "height", "name", "variation")
STDIN = "-"
Record = tuple[int, dict[str, Any]]  # the line, from 1, and the fields by name


def format_of(path: str, given: str | None = None) -> str:
    """csv, txt or jsonl: as given, else by the file's ending; text on standard input. ValueError on any other."""
    ending = Path(path).suffix.lower().removeprefix(".")
    found = given or ("txt" if path == STDIN else ending)
    if found not in FORMATS:
        raise ValueError(f"{path} is not a .csv, .txt or .jsonl file: rename it, or say which with --prompts-format")
    return found


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input for "-"; ValueError with one line when it cannot be read."""
    if path == STDIN:
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (errors of the block are not errors of opening)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield file


def records(file: BinaryIO, where: str, format: str, keep: tuple[str, ...] = ()) -> Iterator[Record]:
    """Yields record after record and skips empty lines. `keep`: columns beyond KNOWN that are wanted.

    Raises ValueError that names file and line: not UTF-8, a broken quote, another number of cells, no JSON object,
    an unknown column, no prompt column.
    """
    readers: dict[str, Callable[..., Iterator[Record]]] = {"csv": _csv, "txt": _text, "jsonl": _json}
    return readers[format](_lines(file, where), where, keep)


def _lines(file: BinaryIO, where: str) -> Iterator[str]:
    """Decoded lines with their ends; a byte-order mark at the start is dropped."""
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}, line {number}: it is not UTF-8 (byte {error.start + 1})") from error


def _text(lines: Iterator[str], where: str, keep: tuple[str, ...]) -> Iterator[Record]:
    if keep:
        raise ValueError("--keep is for columns, and a text file has none")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _json(lines: Iterator[str], where: str, keep: tuple[str, ...]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}, line {number}: it is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f'{where}, line {number}: a JSON object is needed, such as {{"prompt": "a fox"}}')
        _check_columns(f"{where}, line {number}", list(record), keep)
        yield number, record


def _csv(lines: Iterator[str], where: str, keep: tuple[str, ...]) -> Iterator[Record]:
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{where}, line {start}: {error} (is a quote left open?)") from error
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(f"{where}, line {start}", header, keep)
        elif len(cells) != len(header):
            raise ValueError(f"{where}, line {start}: {len(cells)} cells, but the header names {len(header)} columns")
        else:
            pairs = zip(header, cells, strict=True)
            yield start, {name: cell for name, cell in pairs if cell.strip() or name == "prompt" or name in keep}


def _check_header(at: str, header: list[str], keep: tuple[str, ...]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{at}: the header names {', '.join(map(repr, twice))} twice")
    missing = [name for name in ("prompt", *keep) if name not in header]
    if missing:
        raise ValueError(f"{at}: the header has no column {', '.join(map(repr, missing))}")
    _check_columns(at, header, keep)


def _check_columns(at: str, names: list[str], keep: tuple[str, ...]) -> None:
    """A column that nobody reads may be misspelt, so it has to be asked for."""
    unknown = [name for name in names if name not in KNOWN and name not in keep]
    if unknown:
        flags = " ".join(f"--keep {name}" for name in unknown)
        listed, known = ", ".join(map(repr, unknown)), ", ".join(KNOWN)
        raise ValueError(f"{at}: unknown column {listed} (known: {known}); {flags} copies it into the manifest")
