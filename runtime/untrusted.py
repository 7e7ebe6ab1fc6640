"""Safe reads from untrusted folders: only regular files inside them, of bounded size, opened without blocking."""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from runtime.errors import BundleError

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def check_place(folder: str | Path, name: str) -> os.stat_result:
    """The facts of a file by its path in `folder`; nothing of the file is read.

    Raises BundleError when a symbolic link leads out of the folder or it is not a regular file (a pipe or a
    device would block or never end), FileNotFoundError and other OSErrors as `stat` does. A hard link looks
    like any other file: what it holds is what the manifest's hash is for.
    """
    path = os.path.join(folder, name)
    root, real = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([root, real]) != root or real == root:
        raise BundleError(f"{path} leads out of its folder, to {real}: put the file itself there")
    facts = os.lstat(real)
    if not stat.S_ISREG(facts.st_mode):
        raise BundleError(f"{path} is not a file but a {_kind(facts.st_mode)}: copy or install the bundle again")
    return facts


def open_inside(folder: str | Path, name: str, most: int | None = None) -> BufferedReader:
    """The file, open for reading; raises as `check_place`, and BundleError above `most` bytes."""
    check_place(folder, name)
    path = os.path.join(folder, name)
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode) or (most is not None and facts.st_size > most):
        file.close()
        raise BundleError(f"{path} has {facts.st_size} bytes: {most} at most are read")
    return file


def read_inside(folder: str | Path, name: str, most: int) -> bytes:
    """The bytes of a file; raises as `open_inside`."""
    with open_inside(folder, name, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # a file that grows meanwhile is not read further


def read_json(data: bytes) -> Any:
    """Parsed JSON in UTF-8; ValueError when a key appears twice, a number is NaN or infinite, or a text is not Unicode.

    RecursionError when it is nested too deeply.
    """
    value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    if b"\\u" in data:  # only an escape can make half a surrogate pair
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def shown(text: object, most: int = 80) -> str:
    """Untrusted text, made printable and short for an error line."""
    line = str(text)[: 4 * most]
    line = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in line)
    return line if len(line) <= most else line[:most] + "..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{shown(json.dumps(twice))} appears twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFLNK: "broken link"}
    return kinds.get(stat.S_IFMT(mode), "device")
