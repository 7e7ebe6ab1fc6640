"""Folders that last as long as the process that made them."""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack
from pathlib import Path

from runtime.files.faults import faults_told
from runtime.files.folders import REMEDY, sweep
from runtime.files.partial import making


def passing_folder(beside: Path) -> Path:
    """A new hidden folder next to `beside`, which need not exist; it is removed when the process ends.

    What killed processes left there is removed first. Raises OutputError when it cannot be made.
    """
    with faults_told(beside, beside, REMEDY):
        beside.parent.mkdir(parents=True, exist_ok=True)
        sweep(beside)
        stack = ExitStack()
        made = stack.enter_context(making(beside, mode=0o700))
    atexit.register(_close, stack, os.getpid())
    return made


def _close(stack: ExitStack, process: int) -> None:
    if os.getpid() == process:  # a forked child may end while its parent still needs the folder
        stack.close()
