"""Locks that end with their process, however it ends, on systems with `fcntl`, with `msvcrt`, and with neither.

A lock is a file that holders keep open. POSIX systems lock the whole file (flock), Windows bytes of it. Where Python
has neither module, a holder makes a file of its own beside the lock's, named by its process id; those of dead
processes do not count.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import OutputError

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

_POLL_S = 0.05
_SHARES = 1024  # holders that a shared lock can have where bytes are locked: each locks one, an exclusive one all


class Lock(Protocol):
    """A lock that is held until `close`, or until the process ends."""

    def close(self) -> None: ...


@contextmanager
def locked(path: str | Path, message: str, patience_s: float = 0.0) -> Iterator[None]:
    """Holds the lock file `path` for the block; OutputError(message) when another holds it longer than `patience_s`.

    The file is made, and stays. OSError when it cannot be.
    """
    end = time.monotonic() + patience_s
    while (lock := take_lock(path)) is None:
        if time.monotonic() >= end:
            raise OutputError(message)
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.close()


def take_lock(path: str | Path, shared: bool = False) -> Lock | None:
    """The lock of the file `path`, which is made; None when another holds it, in this process too.

    shared: any number hold it together, but not beside one that holds it alone. OSError when the file cannot be made.
    """
    if fcntl is None and msvcrt is None:
        return _take_by_name(Path(path), shared)
    file = open(path, "ab")  # noqa: SIM115 (held by the caller)
    try:
        if _flock(file.fileno(), shared) if fcntl else _lock_bytes(file.fileno(), shared):
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def hold_folder(path: Path, wait: bool = False) -> int | None:
    """A descriptor that holds a folder until `let_go`; None where the system cannot lock folders.

    OSError when another process holds it (never with `wait`) or it is gone.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def hold_file(descriptor: int) -> None:
    """Holds an open file, as `hold_folder` holds a folder, until it is closed; nothing where files cannot be locked."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def let_go(descriptor: int | None) -> None:
    """Ends what `hold_folder` began."""
    if descriptor is not None:
        os.close(descriptor)


def _flock(descriptor: int, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_bytes(descriptor: int, shared: bool) -> bool:
    """An exclusive lock is on all bytes; of a shared one each holder has a byte of its own."""
    regions = [(start, 1) for start in range(_SHARES)] if shared else [(0, _SHARES)]
    for start, length in regions:
        os.lseek(descriptor, start, os.SEEK_SET)
        with suppress(PermissionError):  # somebody else holds one of them
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, length)
            return True
    return False


_numbers = itertools.count()
_held_names: set[str] = set()  # of this process: its id alone does not identify a lock that was released


class _Name:
    """A file whose existence is the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        _held_names.discard(str(self._path))


def _take_by_name(path: Path, shared: bool) -> Lock | None:
    """Announces itself, then looks around: of two that come at once, at least one sees the other."""
    mine = path.with_name(f"{path.name}.{os.getpid()}-{next(_numbers)}-{'shared' if shared else 'alone'}")
    _held_names.add(str(mine))
    lock = _Name(mine)
    try:
        os.close(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        taken = any(not (shared and other.name.endswith("-shared")) for other in _living(path) if other != mine)
    except BaseException:
        lock.close()
        raise
    if taken:
        lock.close()
        return None
    return lock


def _living(path: Path) -> Iterator[Path]:
    """The files of living holders; those of dead ones are removed."""
    ours = re.compile(rf"{re.escape(path.name)}\.(\d+)-\d+-(shared|alone)", re.DOTALL)
    for other in path.parent.iterdir():
        found = ours.fullmatch(other.name)
        if found is None:
            continue
        number = int(found[1])
        if str(other) in _held_names if number == os.getpid() else _is_alive(number):
            yield other
        else:
            other.unlink(missing_ok=True)


def _is_alive(number: int) -> bool:
    """Whether a process with this id runs. Never asked on Windows, where signal 0 would end it."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
