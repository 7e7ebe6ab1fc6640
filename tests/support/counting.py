"""How much work a call does, counted rather than timed: the same on every machine, busy or not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


def lines_run(call: Callable[[], object]) -> int:
    """The lines of Python that `call` runs."""
    count, before = 0, sys.gettrace()

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return step

    sys.settrace(step)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@contextmanager
def reading_at_most(bytes_read: int) -> Iterator[None]:
    """Asserts that no more is read from files within the block, where the system counts that (Linux)."""
    before = _read_so_far()
    yield
    assert _read_so_far() - before <= bytes_read


def _read_so_far() -> int:
    counts = Path("/proc/self/io")
    if not counts.exists():
        return 0
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["rchar"])
