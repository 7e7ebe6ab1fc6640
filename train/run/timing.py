"""Seconds spent in the parts of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timer:
    """`with timer("teacher"): ...` adds to `seconds["teacher"]`; an inner part's time does not count for the outer.

    exact: wait for the accelerator at each boundary, so that its work is counted where it was asked for. Training
    leaves it off, since waiting costs speed; then only host time is counted.
    """

    def __init__(self, exact: bool = False) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.exact = exact
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._mark()
        self._open.append(part)
        try:
            yield
        finally:
            self._mark()
            self._open.pop()

    def _mark(self) -> None:
        """Credit the time since the last boundary to the part that was running."""
        if self.exact and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def take(self) -> dict[str, float]:
        """The seconds so far; counting starts again."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken
