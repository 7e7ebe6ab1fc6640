"""Names of a batch's pictures: safe below the output folder on every system, and unique among millions."""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from runtime.image_files import SUFFIXES
from runtime.output_names import slug

PER_FOLDER = 1000  # automatic names: pictures per subfolder, so that no folder grows too large to list
MOST_PART, MOST_PATH = 200, 1000  # bytes of UTF-8, below every file system's 255 with room for a temporary name
_FORBIDDEN = set('\\:*?"<>|')
_PICTURES = {".png", ".webp", ".jpg", ".jpeg"}
_OURS = (".json", ".jsonl", ".tar", *_PICTURES)  # a folder of such a name could collide with a file


def automatic_path(row: int, prompt: str, format: str) -> str:
    """The path of a row without a name, from its number and words alone: 00012/00012345-a-red-fox.png."""
    return f"{row // PER_FOLDER:05d}/{row:08d}-{slug(prompt)}{SUFFIXES[format]}"


def named_path(name: str, format: str) -> str:
    """The path below the output folder for a name that a user gave, with the format's ending.

    Folders are divided by "/". Raises ValueError when it would leave the folder, or is not valid on every system.
    """
    parts = name.split("/")
    for part in parts:
        reason = _refusal(part)
        if reason:
            raise ValueError(f"name {name!r} is not allowed: {reason}")
    for part in parts[:-1]:
        if part.lower().endswith(_OURS):
            ending = PurePosixPath(part).suffix
            raise ValueError(f"name {name!r} is not allowed: a folder's name must not end in {ending}")
    path = _with_suffix(name, format)
    if len(path.encode("utf-8")) > MOST_PATH:
        raise ValueError(f"name {name[:40]!r}... is too long: {MOST_PATH} bytes at most")
    return path


def _refusal(part: str) -> str:
    """Why a part of a path cannot be a file name on every system; "" when it can."""
    if part in ("", ".", ".."):
        return "it must be a path below the output folder, without '..' or empty parts"
    if part.startswith(".") or part != part.rstrip(" ."):
        return "a part must not start with a dot, nor end with a dot or a space"
    if not part.isprintable() or _FORBIDDEN & set(part):
        return f"it must not contain control characters or any of {' '.join(sorted(_FORBIDDEN))}"
    if PureWindowsPath(part).is_reserved():
        return f"Windows keeps {part.partition('.')[0]} for a device"
    if len(part.encode("utf-8")) > MOST_PART:
        return f"a part may have {MOST_PART} bytes at most"
    return ""


def _with_suffix(name: str, format: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == SUFFIXES[format] or (format == "jpeg" and suffix == ".jpeg"):
        return name
    if suffix in _PICTURES:
        raise ValueError(f"name {name!r} ends in {suffix}, but --format is {format}")
    return name + SUFFIXES[format]


class Distinct:
    """Paths that must differ even where case and Unicode normalization do not count: 16 bytes per path.

    Compared by 64 bits of a hash: among a million, the chance of a false collision is 3 in 100 million.
    """

    def __init__(self) -> None:
        self._hashes, self._lines = array("Q"), array("Q")

    def add(self, path: str, line: int) -> None:
        """A path and the line that it comes from."""
        folded = unicodedata.normalize("NFC", path).casefold()
        digest = hashlib.blake2b(folded.encode("utf-8"), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest, "little"))
        self._lines.append(line)

    def check(self, where: str) -> None:
        """ValueError that names the first two lines with one path. `where`: the name of the file."""
        hashes = np.frombuffer(self._hashes, np.uint64)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if twice.size:
            at = twice[np.argmin(order[twice + 1])]
            first, second = (self._lines[int(order[at + i])] for i in (0, 1))
            raise ValueError(f"{where}, lines {first} and {second}: both name the same output file; give each its own")
