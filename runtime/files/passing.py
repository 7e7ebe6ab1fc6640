"""Folders that last as long as the process that made them."""

from __future__ import annotations

import atexit
import os
import shutil
from pathlib import Path

from runtime.files.faults import faults_told
from runtime.files.folders import REMEDY, sweep
from runtime.files.locks import let_go
from runtime.files.partial import new_partial


def passing_folder(beside: Path) -> Path:
    """A new hidden folder next to `beside`, which need not exist; it is removed when the process ends.

    What killed processes left there is removed first. Raises OutputError when it cannot be made.
    """
    with faults_told(beside, beside, REMEDY):
        beside.parent.mkdir(parents=True, exist_ok=True)
        sweep(beside)
        made, lock = new_partial(beside, 0o700)
    atexit.register(_remove, made, lock, os.getpid())
    return made


def _remove(made: Path, lock: int | None, process: int) -> None:
    if os.getpid() == process:  # a forked child may end while its parent still needs the folder
        shutil.rmtree(made, ignore_errors=True)
        let_go(lock)
