"""The one cache folder of all packages. What is in it can be deleted at any time.

ADDKIT_CACHE=DIR names another folder; ADDKIT_CACHE=off keeps nothing. Without it: XDG_CACHE_HOME/addkit, or
~/.cache/addkit; on macOS ~/Library/Caches/addkit; on Windows LOCALAPPDATA/addkit.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

VARIABLE = "ADDKIT_CACHE"
OFF = ("", "0", "off", "no", "false", "none")  # in capitals too


def cache_folder() -> Path | None:
    """The folder, which need not exist; None when nothing is to be kept."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return None if named.strip().lower() in OFF else Path(named).expanduser()
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "addkit"
    local = Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", ""))
    return (local if local.is_absolute() else home / ".cache") / "addkit"  # XDG: relative paths are ignored


def working_folder() -> Path:
    """The cache folder for what must be stored somewhere: if nothing is to be kept, one that the process removes."""
    return cache_folder() or _passing_folder(os.getpid())


@cache
def _passing_folder(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="addkit-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child may end while its parent still needs the folder
        shutil.rmtree(folder, ignore_errors=True)
