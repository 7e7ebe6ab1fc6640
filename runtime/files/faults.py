"""Why something could not be written, in one line: a full disk first of all, whatever a library made of it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import Error, OutputError
from runtime.files.partial import is_inside_partial, shown_text

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_FREE = 1_000_000  # bytes; a disk with less free is why a library's write failed, whatever it says
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries in Rust, such as safetensors, name an errno
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's OSError, which has no errno


@contextmanager
def faults_told(shown: str | Path, target: Path, remedy: str) -> Iterator[None]:
    """Turns what keeps the block from writing into one OutputError; other errors pass.

    shown: `target` as the user gave it. remedy: what to do, the error's end.
    """
    try:
        yield
    except OutputError as error:  # of something inside, reported under the name it would have had
        raise OutputError(shown_text(str(error), target, str(shown))) from error
    except Error:
        raise
    except Exception as error:
        reason = _reason(error, target)
        if reason is None:
            raise
        raise OutputError(f"cannot write {shown}: {reason}; {remedy}") from error


def reason_of(error: OSError) -> str:
    """Why the system refused, without the number and the file's name."""
    if error.errno == errno.EFBIG:
        return "no space left for a file of this size"
    if error.errno in FULL:
        return "no space left on the device"
    return error.strerror or str(error)


def _reason(error: Exception, target: Path) -> str | None:
    """Why `error` means that `target` cannot be written; None when it means something else."""
    number = _errno(error)
    if number in FULL:
        return reason_of(OSError(number, ""))
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.filename is None or _is_of(Path(os.fsdecode(error.filename)), target)
        return reason_of(error) if ours and not isinstance(error, (ConnectionError, TimeoutError)) else None
    return reason_of(OSError(errno.ENOSPC, "")) if _free(target.parent) < LEAST_FREE else None


def _is_of(path: Path, target: Path) -> bool:
    """Whether a path is the target, in a temporary folder, or a folder that the target goes into."""
    return is_inside_partial(path) or path == target or path in target.parents


def _errno(error: BaseException) -> int | None:
    """The system's number behind an error, or behind what caused it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found := _OS_ERROR.search(str(error)):
        return int(found[1])
    if _SHORT_WRITE.fullmatch(str(error)):
        return errno.ENOSPC
    return _errno(error.__cause__) if error.__cause__ is not None else None


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return LEAST_FREE
