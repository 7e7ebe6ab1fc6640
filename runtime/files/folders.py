"""Output folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputError
from runtime.files.faults import faults_told
from runtime.files.flush import flush_folder, flush_tree
from runtime.files.partial import RETIRED, making, remains_of, remove_abandoned
from runtime.files.signals import signals_held

REMEDY = "free some or choose another folder; nothing was written"


@contextmanager
def whole_folder(
    target: str | Path,
    marker: str | None = None,
    overwrite: bool = False,
    check: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place when the block ends without an error.

    marker, overwrite: which folder may be replaced, as for `check_free`; without a marker any. check: called before
    and after the work instead, and raises an error of its own choice. A symbolic link is followed. On an error, or when
    SIGINT, SIGTERM or SIGHUP stops the block, nothing is left behind; what a killed process left, the next one removes.
    Raises OutputError when `target` is taken or cannot be written.
    """
    where = Path(os.path.realpath(target))

    def refuse() -> None:
        if check is None:
            check_free(where, marker, overwrite)
        else:
            check()

    with signals_held() as held, faults_told(target, where, REMEDY):
        sweep(where)
        refuse()
        where.parent.mkdir(parents=True, exist_ok=True)
        with making(where) as partial:
            with held.released():
                yield partial
                flush_tree(partial)
            refuse()  # another process may have taken it meanwhile
            _put_in_place(partial, where)
            flush_folder(where.parent)


def check_free(target: Path, marker: str | None = None, overwrite: bool = False) -> None:
    """Raises OutputError unless a folder may be put at `target`.

    marker: the file by which an earlier folder of the same kind is recognized; with `overwrite` only one that holds
    it is replaced, so that a typo removes nobody's home folder. Without a marker any folder is.
    """
    if not target.exists() and not target.is_symlink():
        check_folder(target)
        return
    if not target.is_dir():
        raise OutputError(f"{target} is a file; choose another name for the folder")
    if marker is None or not any(target.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{target} exists: give another --out, or --overwrite to replace it")
    if not (target / marker).is_file():
        raise OutputError(f"{target} has no {marker}: it is not an earlier export, and --overwrite spares it")


def check_folder(path: str | Path) -> None:
    """Raises OutputError unless `path` is a folder that takes files, or can become one; makes nothing."""
    above = Path(os.path.realpath(path))
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise OutputError(f"cannot write {path}: {above} is a file, not a folder; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {above}; choose another path")


def sweep(target: Path) -> None:
    """Removes what killed processes left beside `target`, and puts back what they had moved aside."""
    if not target.parent.is_dir():
        return
    left = remains_of(target)
    for partial in (path for path in left if path.suffix != RETIRED):
        remove_abandoned(partial)
    for retired in (path for path in left if path.suffix == RETIRED):
        if retired.with_suffix("").exists():  # its process is at work
            continue
        if target.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(target)


def _put_in_place(partial: Path, target: Path) -> None:
    """Renames `partial` to `target`; what stood there goes once the new folder stands, and is back on an error."""
    retired = partial.with_name(partial.name + RETIRED)
    if target.exists():
        target.rename(retired)
    try:
        partial.rename(target)
    except OSError:
        if retired.exists():
            retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)
