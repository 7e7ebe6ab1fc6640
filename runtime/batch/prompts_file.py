"""The prompts of a batch as records: a CSV, text or JSON lines file, read one line at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.reading import UNNAMED, Row, csv_rows, json_rows, text_lines

FORMATS = ("csv", "txt", "jsonl")
KNOWN = ("prompt", "seed", "width", "height", "name", "variation")
STDIN = "-"
EXAMPLE = '{"prompt": "a fox"}'


def format_of(path: str, given: str | None = None) -> str:
    """csv, txt or jsonl: as given, else by the file's ending; text on standard input. ValueError on any other."""
    ending = Path(path).suffix.lower().removeprefix(".")
    found = given or ("txt" if path == STDIN else {"tsv": "csv"}.get(ending, ending))
    if found not in FORMATS:
        raise ValueError(
            f"{path} is not a .csv, .tsv, .txt or .jsonl file: rename it, or say which with --prompts-format"
        )
    return found


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input for "-"; ValueError with one line when it cannot be read."""
    if path == STDIN:
        if sys.stdin is None:
            raise ValueError("cannot read standard input: it is closed")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (errors of the block are not errors of opening)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield file


def records(file: BinaryIO, where: str, format: str, keep: tuple[str, ...] = ()) -> Iterator[Row]:
    """Yields record after record and skips empty lines. `keep`: columns beyond KNOWN that are wanted.

    Raises ValueError that names file and line: not UTF-8, a broken quote, another number of cells, no JSON object,
    an unknown column, no prompt column.
    """
    lines = text_lines(file, where)
    if format == "csv":
        return _csv(lines, where, keep)
    return _json(lines, where, keep) if format == "jsonl" else _text(lines, where, keep)


def _text(lines: Iterator[str], where: str, keep: tuple[str, ...]) -> Iterator[Row]:
    if keep:
        raise ValueError("--keep is for columns, and a text file has none")
    for number, line in enumerate(lines, start=1):
        prompt = line.strip()
        if "\r" in prompt:
            raise ValueError(
                f"{where}, line {number}: a lone carriage return is in it: save it with newlines as line ends"
            )
        if prompt:
            yield number, {"prompt": prompt}


def _json(lines: Iterator[str], where: str, keep: tuple[str, ...]) -> Iterator[Row]:
    for number, record in json_rows(lines, where, EXAMPLE):
        _check_columns(f"{where}, line {number}", list(record), keep)
        yield number, record


def _csv(lines: Iterator[str], where: str, keep: tuple[str, ...]) -> Iterator[Row]:
    for number, row in csv_rows(lines, where, lambda at, header: _check_header(at, header, keep)):
        yield number, {name: cell for name, cell in row.items() if cell.strip() or name == "prompt" or name in keep}


def _check_header(at: str, header: list[str], keep: tuple[str, ...]) -> None:
    missing = [name for name in ("prompt", *keep) if name not in header]
    if missing:
        raise ValueError(f"{at}: the header has no column {', '.join(map(repr, missing))}")
    _check_columns(at, header, keep)


def _check_columns(at: str, names: list[str], keep: tuple[str, ...]) -> None:
    """A column that nobody reads may be misspelt, so it has to be asked for; one without a name is an index."""
    unknown = [name for name in names if name not in KNOWN and name not in keep and not UNNAMED.fullmatch(name)]
    if unknown:
        flags = " ".join(f"--keep {name}" for name in unknown)
        listed, known = ", ".join(map(repr, unknown)), ", ".join(KNOWN)
        raise ValueError(f"{at}: unknown column {listed} (known: {known}); {flags} copies it into the manifest")
