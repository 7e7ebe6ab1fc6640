"""Output folders that are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from export.signals import signals_held
from runtime.errors import UserError
from runtime.files import put_in_place

PARTIAL, RETIRED = ".tmp", ".old"  # how the names end of a folder in the making, and of the one that it replaces
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_FREE = 1_000_000  # bytes; a disk with less free is why a library's write failed, whatever it says


@contextmanager
def whole_folder(target: Path, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    marker: the file by which an earlier export is recognized; with `overwrite` only a folder that holds it is
    replaced, so that a slip of the keyboard removes nobody's home. On an error, or when SIGINT, SIGTERM or SIGHUP
    stops the block, nothing is left behind; what a killed process left, the next one removes.
    Raises UserError when `target` is taken or the disk is full.
    """
    target = Path(os.path.realpath(target))
    with signals_held() as held:
        sweep(target)
        check_free(target, marker, overwrite)
        partial, lock = make_partial(target)
        try:
            with full_disk_told(target), held.released():
                yield partial
                partial.chmod(0o755)
                sync(partial)
            check_free(target, marker, overwrite)  # another process may have taken it meanwhile
            put_in_place(partial, target, partial.with_name(partial.name + RETIRED))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def make_partial(target: Path) -> tuple[Path, int]:
    """A new folder beside `target`, and a descriptor that holds it: the system lets go when the process ends."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent))
            lock = os.open(partial, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: nothing is ever swept there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if partial.exists():
                return partial, lock
            os.close(lock)  # another process swept it away before it was held
    except OSError as error:
        raise UserError(f"cannot write beside {target}: {error.strerror}") from error


def sweep(target: Path) -> None:
    """Remove what processes left beside `target` that were killed, and put back what they had moved aside."""
    if not target.parent.is_dir():
        return
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\{PARTIAL}(\{RETIRED})?")
    left = [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]
    for partial in (path for path in left if path.suffix == PARTIAL):
        remove_abandoned(partial)
    for retired in (path for path in left if path.suffix == RETIRED):
        if retired.with_suffix("").exists():  # its process is at work
            continue
        if target.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(target)


def remove_abandoned(partial: Path) -> None:
    """Remove a folder unless a living process holds it."""
    with suppress(OSError):
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def full_disk_told(target: Path) -> Iterator[None]:
    """Turn what a full disk makes libraries raise into one line; other errors pass."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if full or shutil.disk_usage(target.parent).free < LEAST_FREE:
            message = f"no space left at {target.parent}: free some, or choose another --out; nothing was written"
            raise UserError(message) from error
        raise


def check_free(target: Path, marker: str, overwrite: bool) -> None:
    """Raise UserError unless `target` is absent, empty, or an earlier export that may be replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file: give --out a folder")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{target} exists: give another --out, or --overwrite to replace it")
    if not (target / marker).is_file():
        raise UserError(f"{target} has no {marker}: it is no earlier export, and --overwrite spares it")


def sync(folder: Path) -> None:
    """Flush every file below `folder` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def size_mb(folder: Path) -> float:
    """Megabytes (10^6 bytes) of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
