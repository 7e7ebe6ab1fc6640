"""Folders with temporary names, in which files and folders are made: held while their maker lives, swept after."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from runtime.files.locks import hold_file, hold_folder, let_go

RETIRED = ".old"  # suffix of the folder that a new one replaces, until the new one is in place
ABANDONED_S = 86_400.0  # a day: how long a temporary folder counts as in use where folders cannot be locked
_LONGEST = 200  # bytes of a target's name that a temporary name repeats; a file system's own limit is 255
_MARK = r"\.addkit-[0-9a-f]{8}\.tmp"
_OURS = re.compile(rf"\..+{_MARK}({re.escape(RETIRED)})?", re.DOTALL)


@contextmanager
def making(target: Path, mode: int = 0o777) -> Iterator[Path]:
    """A new hidden folder beside `target`, removed at the end unless it was renamed; OSError when it cannot be made.

    mode: its permissions, before the process' umask.
    """
    partial, lock = new_partial(target, mode)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        let_go(lock)


def new_partial(target: Path, mode: int) -> tuple[Path, int | None]:
    """A new hidden folder beside `target`, and the lock that holds it, which the caller lets go."""
    while True:
        partial = _hidden(target)
        with suppress(FileExistsError):
            partial.mkdir(mode)
            lock = hold_folder(partial, wait=True)
            if partial.exists():
                return partial, lock
            let_go(lock)  # another process took it for abandoned, before it was held


@contextmanager
def making_file(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """As `making`, but a new hidden file, open for writing; no other process sweeps it while it is open."""
    partial, file = _make_file(target)
    try:
        with file:
            yield partial, file
    finally:
        with suppress(OSError):  # it was renamed
            partial.unlink()


def is_partial(name: str) -> bool:
    """Whether a file's or folder's name is one of the temporary names made here."""
    return _OURS.fullmatch(name) is not None


def is_inside_partial(path: Path) -> bool:
    """Whether a path is one of the temporary folders made here, or in one."""
    return any(is_partial(part) for part in path.parts)


def remains_of(target: Path) -> list[Path]:
    """The temporary folders beside `target` that were made for it, whether somebody is at work in them or not."""
    ours = re.compile(rf"{_pattern(target)}({re.escape(RETIRED)})?", re.DOTALL)
    return [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]


def shown_text(text: str, target: Path, shown: str) -> str:
    """A message in which the target's temporary folder goes by the name that the user gave the target."""
    return re.sub(re.escape(os.path.join(target.parent, "")) + _pattern(target), lambda _: shown, text)


def remove_abandoned(partial: Path) -> None:
    """Removes a temporary folder unless a living process is at work in it."""
    with suppress(OSError):
        lock = hold_folder(partial)
        try:
            if lock is not None or time.time() - partial.lstat().st_mtime > ABANDONED_S:
                remove_partial(partial)
        finally:
            let_go(lock)


def remove_partial(path: Path) -> None:
    """Removes what has a temporary name, file or folder; the caller knows that nobody is at work in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _make_file(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        partial = _hidden(target)
        with suppress(FileExistsError):
            file = open(partial, "xb")  # noqa: SIM115 (closed by `making_file`)
            hold_file(file.fileno())
            if partial.exists():
                return partial, file
            file.close()  # another process took it for abandoned, before it was held


def _hidden(target: Path) -> Path:
    return target.with_name(f".{_stem(target.name)}.addkit-{os.urandom(4).hex()}.tmp")


def _pattern(target: Path) -> str:
    return rf"\.{re.escape(_stem(target.name))}{_MARK}"


def _stem(name: str) -> str:
    """A target's name as temporary names repeat it: itself, or its beginning and a hash where it is too long."""
    data = os.fsencode(name)
    return name if len(data) <= _LONGEST else f"{name[:40]}-{hashlib.sha256(data).hexdigest()[:8]}"
