"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from runtime.errors import OutputError
from runtime.files.faults import faults_told, reason_of
from runtime.files.flush import flush_file, flush_folder
from runtime.files.partial import is_partial, making, making_file, remove_abandoned
from runtime.files.signals import signals_held

REMEDY = "free some or choose another path"
_swept: set[Path] = set()  # folders in which this process removed what killed ones left


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to, with the same name in a hidden folder; it takes the place of `path` at the end.

    `path` then holds either all that was written or what it held before. A symbolic link is followed. SIGINT, SIGTERM
    and SIGHUP leave nothing behind. Raises OutputError, one line that names the path, the reason and what to do.
    """
    target = _target(path)
    with signals_held() as held:
        _sweep(target.parent)
        with faults_told(path, target, REMEDY), making(target) as partial:
            made = partial / target.name
            with held.released():
                yield made
                flush_file(made, partial.stat().st_mode)
            os.replace(made, target)
            flush_folder(target.parent)


@contextmanager
def whole_stream(path: str | Path) -> Iterator[BinaryIO]:
    """As `whole_file`, but yields an open binary file, whose `name` is the path."""
    with whole_file(path) as partial, open(partial, "xb") as file:
        yield file


def write_whole(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path`, as `whole_file` does, at a third of its cost: a bulk run writes thousands of pictures.

    No library needs a path here, so a hidden file is used instead of a folder. The folder's list of names is not
    flushed: after a power cut the file may be the old one, never half of the new one.
    """
    target = _target(path)
    with signals_held() as held:
        _sweep(target.parent)
        with faults_told(path, target, REMEDY), making_file(target) as (partial, file):
            with held.released():
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if os.name == "nt":  # which renames no open file
                file.close()
            os.replace(partial, target)


def write_text(path: str | Path, text: str) -> None:
    """Writes text in UTF-8, line ends as they are; as `whole_file` does."""
    write_whole(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Any, sort_keys: bool = False) -> None:
    """Writes JSON as people read it, in UTF-8; as `whole_file` does."""
    write_text(path, json.dumps(data, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n")


def check_writable(path: str | Path) -> Path:
    """The file that `path` stands for, once a trial write in its folder worked; OutputError when it does not."""
    target = _target(path)
    with faults_told(path, target, REMEDY), making(target):
        return target


def _target(path: str | Path) -> Path:
    """The file that `path` stands for; OutputError when it cannot be a file, whatever the permissions."""
    try:
        target = Path(os.path.realpath(path))
        reason = _refusal(target)
    except OSError as error:
        reason = f"{reason_of(error)}; choose another path"
    if reason:
        raise OutputError(f"cannot write {path}: {reason}")
    return target


def _refusal(target: Path) -> str:
    if not target.parent.is_dir():
        return f"there is no folder {target.parent}; make it or choose another path"
    if target.is_dir():
        return "it is a folder; give the name of a file in it"
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        return "it is a device or a pipe, not a file"
    return ""


def _sweep(folder: Path) -> None:
    """Removes what killed processes left in a folder; once for each, since some hold a hundred thousand files."""
    if folder not in _swept:
        _swept.add(folder)
        with suppress(OSError):
            for path in folder.iterdir():
                if is_partial(path.name) and path.suffix == ".tmp":
                    remove_abandoned(path)
