"""Output folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.errors import UserError


@contextmanager
def whole_folder(target: Path, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    marker: the file by which an earlier export is recognized; with `overwrite` only a folder that holds it is
    replaced, so that a slip of the keyboard removes nobody's home. On an error nothing is left behind.
    Raises UserError when `target` is taken.
    """
    target = Path(os.path.abspath(target))
    check_free(target, marker, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write beside {target}: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o755)
        sync(partial)
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def put_in_place(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; what stood there before goes only once the new one stands."""
    retired = partial.with_name(partial.name + ".old")
    if target.exists():
        target.rename(retired)
    try:
        partial.rename(target)
    except OSError:
        if retired.exists():
            retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def size_mb(folder: Path) -> float:
    """Megabytes (10^6 bytes) of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
