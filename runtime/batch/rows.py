"""The rows of a batch: records checked and completed, one picture each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from runtime import arguments
from runtime.batch.names import automatic_path, named_path
from runtime.batch.prompts_file import KNOWN
from runtime.manifest import Manifest
from runtime.noise import check_seed
from runtime.reading import UNNAMED
from runtime.reading import Row as Record
from runtime.variation.choice import AUTO, Choice, check_choice, completed, read_choice

_POINT_ZERO = re.compile(r"(?<=\d)\.0+\s*$")
SHARD_SIZE = 1000  # samples: shards of some 20 MB


@dataclass(frozen=True)
class Row:
    """One picture to make."""

    row: int  # position among the prompts, from 0
    line: int  # of the file that it comes from, from 1
    prompt: str
    seed: int
    path: str  # of the picture, below the output folder, with "/"
    extra: dict[str, Any] = field(default_factory=dict)  # the columns of --keep
    size: tuple[int, int] | None = None  # height, width; None: the bundle's own
    variation: Choice = AUTO  # how the prompt is completed
    typed: str | None = None  # the prompt as the file has it, once it is completed

    @classmethod
    def from_line(cls, line: bytes) -> Row:
        """What `to_line` wrote."""
        read = json.loads(line)
        return cls(**read | {"size": read["size"] and tuple(read["size"])})

    def to_line(self) -> bytes:
        """One line of JSON in ASCII: text that is not valid UTF-8 passes through too."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"

    def identity(self) -> bytes:
        """What must not change between the starts of one run; the line number may, as when an empty line is added."""
        size = [self.size] if self.size else []
        varied = [] if self.variation == AUTO else [{"variation": self.variation}]
        return json.dumps([self.prompt, self.seed, self.path, self.extra, *size, *varied]).encode("ascii") + b"\n"


@dataclass(frozen=True)
class Rules:
    """What completes a record."""

    manifest: Manifest  # of the bundle, which lists its sizes
    format: str  # of the pictures
    seed: int = 0  # from which rows without a seed get theirs
    keep: tuple[str, ...] = ()  # columns to carry into the manifest
    keys: bool = False  # names become WebDataset keys
    variation: Choice = AUTO  # of rows that do not say


def rows(found: Iterable[Record], where: str, rules: Rules) -> Iterator[Row]:
    """Yields row after row; raises ValueError that names file and line, and says what is wrong with it."""
    for number, (line, record) in enumerate(found):
        try:
            yield _row(number, line, record, rules)
        except ValueError as error:
            raise ValueError(f"{where}, line {line}: {error}") from error


def row_seed(seed: int, row: int) -> int:
    """The seed of a row without one, 0 to 2**32 - 1: the first 4 bytes of BLAKE2b of "seed:row", low first.

    Runs with neighbouring seeds share none, as they would with seed + row.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=4).digest(), "little")


def _row(number: int, line: int, record: dict[str, Any], rules: Rules) -> Row:
    prompt = _prompt(record.get("prompt"))
    size = arguments.check_size(rules.manifest, _whole(record, "height"), _whole(record, "width"))
    seed = _whole(record, "seed")
    name = record.get("name")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"name must be a string, not {name!r}")
    path = named_path(name.strip(), rules.format) if name else automatic_path(number, prompt, rules.format)
    if rules.keys:
        path = _key_path(path, number if not name else None)
    kept = [*rules.keep, *(name for name in record if UNNAMED.fullmatch(name) and name not in rules.keep)]
    extra = {column: record[column] for column in kept if column in record and column not in KNOWN}
    own = None if size == rules.manifest.image_size else size
    chosen = row_seed(rules.seed, number) if seed is None else check_seed(seed)
    return Row(number, line, prompt, chosen, path, extra, own, _variation(record, prompt, chosen, rules))


def _prompt(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it has no prompt" if value is None else f"prompt must be a string, not {value!r}")
    if not value.strip():
        raise ValueError("the prompt is empty: say what the picture should show")
    if "\0" in value:
        raise ValueError("the prompt holds a NUL character, which no picture file can carry: remove it")
    return value


def _variation(record: dict[str, Any], prompt: str, seed: int, rules: Rules) -> Choice:
    """A row's own, or that of all; ValueError now for a word that the prompt does not leave open."""
    given = record.get("variation")
    given = rules.variation if given is None or given == "" else given
    choice = read_choice([given]) if isinstance(given, str) else check_choice(given)
    if isinstance(choice, dict):
        completed(rules.manifest.variation, choice, prompt, seed, lambda _: True, rules.manifest.name)
    return choice


def _whole(record: dict[str, Any], name: str) -> int | None:
    """A whole number, or its digits as CSV has them; None where there is none. 7.0, as pandas writes it, is 7."""
    value = record.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not _is_exact(value)):
            raise ValueError
        return int(_POINT_ZERO.sub("", value) if isinstance(value, str) else value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be a whole number, not {str(value)[:40]!r}") from error


def _is_exact(value: float) -> bool:
    """Whether a float stands for one whole number alone."""
    return value.is_integer() and abs(value) < 2**53


def _key_path(path: str, number: int | None) -> str:
    """WebDataset separates a sample's key from its extension at the first dot of the file name."""
    file = PurePosixPath(path)
    if number is not None:
        return f"{number:09d}{file.suffix}"
    if "." in file.stem:
        raise ValueError(f"name {file.stem!r} holds a dot, which WebDataset takes for the end of the name: remove it")
    return path


@dataclass(frozen=True)
class Settings:
    """One batch's settings; two starts with equal ones and equal rows make the same folder."""

    bundle: str  # name in its manifest
    bundle_sha256: str  # of its manifest.json, which holds the hash of every other file
    provider: str  # cpu, cuda, coreml or openvino
    num_inference_steps: int
    format: str  # a key of runtime.image_files.SUFFIXES
    quality: int | None  # 1 to 100; None: the format's own
    seed: int  # from which rows without a seed get theirs
    shard_size: int | None  # samples of a WebDataset shard; None: plain files
    addkit: str  # version, which is stored in every picture
    watermark: bool | None = None  # as in Pipeline.run

    def to_dict(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)
