"""JSON lines, and CSV as Excel and pandas save it, a row at a time."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

DELIMITERS = ",;\t|"
UNNAMED = re.compile(r"Unnamed: \d+")  # pandas' name for a column without one, such as the index that it saves
_EXCEL = re.compile(r"sep=([^\w\s\"]|\t)\s*")  # a first line by which Excel is told the delimiter

Row = tuple[int, dict[str, Any]]  # the line that it starts on, from 1, and its fields by name


def json_rows(lines: Iterable[str], where: str, example: str) -> Iterator[Row]:
    """The objects of JSON lines; empty lines are skipped. Raises ValueError, in which `example` is an object."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}, line {number}: it is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}, line {number}: a JSON object is needed, such as {example}")
        yield number, row


def csv_rows(lines: Iterator[str], where: str, check: Callable[[str, list[str]], None]) -> Iterator[Row]:
    """The rows of a table by the names in its first line; lines without any text are skipped.

    The delimiter (comma, semicolon, tab or |) is found from the header. A column without a name is "Unnamed: 0" by
    its number, as pandas calls it. `check` is given the place and the header and may raise. Raises ValueError at a
    broken quote and another number of cells.
    """
    header: list[str] | None = None
    for number, cells in _cells(lines, where):
        if not any(cells):
            continue
        if header is None:
            header = [cell.strip() or f"Unnamed: {place}" for place, cell in enumerate(cells)]
            _check_twice(f"{where}, line {number}", header)
            check(f"{where}, line {number}", header)
        elif len(cells) != len(header):
            raise ValueError(f"{where}, line {number}: {len(cells)} cells, but the header names {len(header)} columns")
        else:
            yield number, dict(zip(header, cells, strict=True))


def _cells(lines: Iterator[str], where: str) -> Iterator[tuple[int, list[str]]]:
    """The line that a record starts on, and its cells."""
    read: list[str] = []
    first = ""
    for first in lines:
        read.append(first)
        if first.strip():
            break
    told = _EXCEL.fullmatch(first)
    reader = csv.reader(
        itertools.chain(read[:-1] if told else read, lines),
        delimiter=told[1] if told else _delimiter(first),
        strict=True,
    )
    while True:
        start = reader.line_num + 1 + bool(told)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{where}, line {start}: {error} (is a quote left open?)") from error
        if cells is None:
            return
        yield start, cells


def _delimiter(header: str) -> str:
    try:
        return csv.Sniffer().sniff(header, DELIMITERS).delimiter
    except csv.Error:  # a single column
        return ","


def _check_twice(at: str, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{at}: the header names {', '.join(map(repr, twice))} twice")
