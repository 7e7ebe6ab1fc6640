"""A status line on stderr for work that takes longer than two seconds; silent before."""

from __future__ import annotations

import io
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

PATIENCE_S = 2.0
_TICK_S = 0.5


class Progress:
    """`with Progress(total) as progress: ... progress.done(i)`: one line on a terminal, else one a change."""

    def __init__(self, total: int, stream: TextIO | None = None, patience_s: float = PATIENCE_S) -> None:
        """`total`: pictures to make; `patience_s`: seconds of silence before the first line."""
        self._total, self._count, self._patience = total, 0, patience_s
        self._stream = stream or sys.stderr or io.StringIO()  # a process may have no stderr at all
        self._live = self._stream.isatty()
        self._start = time.monotonic()
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._live and self._said:
            self._write("\r\x1b[K")

    def done(self, count: int) -> None:
        """`count` pictures are ready."""
        self._count = count

    def _watch(self) -> None:
        wait = self._patience
        while not self._stop.wait(wait):
            wait = _TICK_S
            self._say()

    def _say(self) -> None:
        """The line again: with the seconds on a terminal, elsewhere only when the count changed."""
        text = f"{self._count} of {self._total} pictures"
        if self._live:
            self._write(f"\r\x1b[K{text}, {time.monotonic() - self._start:.0f} s")
        elif text != self._said:
            self._write(f"{text}\n")
        self._said = text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed stderr must not stop the work
            self._stop.set()
