"""Folders of a cache: made whole, named by what is in them, so that the fastest process wins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.files.faults import faults_told
from runtime.files.flush import flush_folder, flush_tree
from runtime.files.folders import REMEDY, sweep
from runtime.files.partial import making


@contextmanager
def kept_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `target` when the block ends well, unless another process was faster.

    It can be read by its owner alone. Signals act as they do elsewhere in the program, as a cache is only part of it:
    what a killed process leaves, the next one removes. Raises OutputError when it cannot be written.
    """
    with faults_told(target, target, REMEDY):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        with making(target, mode=0o700) as partial:
            yield partial
            flush_tree(partial)
            try:
                os.rename(partial, target)
            except OSError:
                if not target.is_dir():
                    raise
            flush_folder(target.parent)
