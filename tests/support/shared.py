"""Folders that the test processes of a run make once and share: whoever comes first makes one, the others wait."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

VARIABLE = "ADDKIT_TESTS_SHARED"  # conftest.py makes this folder before the processes start, and removes it at the end


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The run's folder of this name; `make` fills it, given a path that does not exist yet. Tests only read it."""
    folder = Path(os.environ[VARIABLE]) / name
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_suffix(".done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            make(folder)
            done.touch()
    return folder
