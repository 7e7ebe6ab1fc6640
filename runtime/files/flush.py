"""Flushes what is written to the disk, and gives it the permissions that its maker's files have."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def flush_file(path: Path, mode: int) -> None:
    """Flushes a file, and adds the permissions `mode` to its own: safetensors writes for the owner alone."""
    path.chmod(path.stat().st_mode | (mode & 0o666))
    with path.open("r+b") as file:  # Windows flushes what is open for writing only
        os.fsync(file.fileno())


def flush_tree(folder: Path) -> None:
    """Flushes everything in a folder, so that the rename that follows never shows half of it; links stay as they are.

    Files and folders get the permissions of the folder itself in addition to their own.
    """
    mode = folder.stat().st_mode
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(where, name)
            if path.is_file() and not path.is_symlink():
                flush_file(path, mode)
        flush_folder(Path(where))


def flush_folder(folder: Path) -> None:
    """Flushes a folder's list of names, where the system lets one: renamed files stay renamed after a power cut."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
