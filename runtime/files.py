"""Files written whole or not at all: a temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from runtime.errors import OutputError


def write_whole(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path`, which afterwards holds either all of it or what it held before.

    A symbolic link is followed. Raises OutputError, one line that names the path and the reason.
    """
    target = check_writable(path)
    partial = _partial(target)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def put_in_place(partial: Path, target: Path, retired: Path) -> None:
    """Renames the folder `partial` to `target`; what stood there waits as `retired`, and goes once the new one stands.

    Raises OSError, with the old folder back in its place.
    """
    if target.exists():
        target.rename(retired)
    try:
        partial.rename(target)
    except OSError:
        if retired.exists():
            retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def check_writable(path: str | Path) -> Path:
    """The file that `path` stands for, once its folder took a trial file; OutputError when it does not."""
    try:
        target = Path(os.path.realpath(path))
        reason = _refusal(target)
        if not reason:
            trial = _partial(target)
            trial.touch()
            trial.unlink()
    except OSError as error:
        reason = _reason(error)
    if reason:
        raise OutputError(f"cannot write {path}: {reason}")
    return target


def _refusal(target: Path) -> str:
    """Why a path can hold no file of ours whatever its permissions; "" when it can."""
    if not target.parent.is_dir():
        return f"there is no folder {target.parent}; make it or choose another path"
    if target.is_dir():
        return "it is a folder; give the name of a file in it"
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        return "it is a device or a pipe, not a file"
    return ""


def _partial(target: Path) -> Path:
    """A name of our own beside the target: hidden, short enough for any target's name, unlike any other's."""
    return target.with_name(f".{target.name[:40]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the device; free some or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}; choose another path"
    return error.strerror or str(error)
