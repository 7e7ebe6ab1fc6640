"""The files that say what pictures show: metadata.csv, .jsonl, .parquet of an imagefolder, a batch's manifest.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.reading import Row, csv_rows, json_rows, text_lines

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as Hugging Face's imagefolder calls them
BATCH, BATCH_RUN = "manifest.jsonl", "run.json"  # of runtime.batch
FILE_NAMES = ("file_name", "image_file_name")
CAPTIONS = ("text", "caption", "captions", "prompt")  # whose first one with text is taken
EXAMPLE = '{"file_name": "a.png", "text": "a fox"}'


@dataclass(frozen=True)
class Said:
    """What one row says of one picture."""

    where: str  # file and line
    name: str  # of the picture, as written
    captions: tuple[str, ...]  # none where it has no text
    facts: dict[str, Any]  # its other columns, JSON-ready


def is_metadata(folder: Path, name: str, names: Iterable[str]) -> bool:
    """Whether a file of a folder, which holds `names`, describes pictures."""
    return name.lower() in METADATA or (name == BATCH and BATCH_RUN in names)


def read_metadata(path: Path) -> Iterator[Said]:
    """The rows of a file, one after the other. Raises UserError that names file and line."""
    has_text = False
    columns: dict[str, None] = {}
    try:
        for where, row in _rows(path):
            columns |= dict.fromkeys(row)
            has_text = has_text or any(name in row for name in CAPTIONS)
            yield _said(path, where, row)
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if columns and not has_text:
        raise UserError(f"{path}: no column {_listed(CAPTIONS)} says what is shown; it has {_listed(columns)}")


def caption_of(text: str, where: str) -> str:
    """A caption; "" where there is none. Raises UserError at NUL characters, as UTF-16 has them."""
    if "\0" in text:
        raise UserError(f"{where}: it holds NUL characters, as UTF-16 does: save it as UTF-8")
    return text.strip()


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    with path.open("rb") as file:
        lines = text_lines(file, str(path))
        rows: Iterator[Row]
        if path.suffix.lower() == ".csv":
            rows = csv_rows(lines, str(path), _check_header)
        else:
            rows = json_rows(lines, str(path), EXAMPLE)
        for number, row in rows:
            yield f"{path}, line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install pyarrow, or save it as metadata.csv") from error
    try:
        rows = (row for batch in ParquetFile(path).iter_batches() for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", json.loads(json.dumps(row, default=str))
    except ArrowInvalid as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _check_header(at: str, header: list[str]) -> None:
    if not set(header) & set(FILE_NAMES):
        raise ValueError(f"{at}: the header has no column 'file_name'; it has {_listed(header)}")


def _said(path: Path, where: str, row: dict[str, Any]) -> Said:
    named = ("path",) if path.name == BATCH else FILE_NAMES
    key = next((name for name in named if name in row), None)
    if key is None:
        raise UserError(f"{where}: it has no {named[0]}; a row looks like {EXAMPLE}")
    if not isinstance(row[key], str) or not row[key].strip():
        raise UserError(f"{where}: {key} must be the name of a picture, not {str(row[key])[:40]!r}")
    if "member" in row:
        raise UserError(
            f"{path.parent} holds WebDataset shards, which need no import: train with data={path.parent}/NAME.tar"
        )
    captions = next((found for name in CAPTIONS if (found := _captions(row.get(name), name, where))), ())
    facts = {name: value for name, value in row.items() if name != key and name not in CAPTIONS}
    return Said(where, row[key].strip(), captions, facts)


def _captions(value: Any, name: str, where: str) -> tuple[str, ...]:
    """A text, or a list of them, the plainest first."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas' NaN
        return ()
    several = value if isinstance(value, list) else [value]
    for text in several:
        if not isinstance(text, str):
            raise UserError(f"{where}: {name} must be a text or a list of texts, not {str(text)[:40]!r}")
    return tuple(dict.fromkeys(filter(None, (caption_of(text, where) for text in several))))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
