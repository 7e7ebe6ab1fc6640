"""A status line on stderr for work that takes longer than two seconds; silent before."""

from __future__ import annotations

import io
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

PATIENCE_S = 2.0
_TICK_S = 0.5
_PLAIN_S = 10.0  # between the plain lines of a run of hours
_BAR = 24  # characters


class Progress:
    """`with Progress(total) as progress: ... progress.done(i)`: one line on a terminal, else one per change."""

    def __init__(self, total: int, stream: TextIO | None = None, patience_s: float = PATIENCE_S) -> None:
        """`total`: pictures to make; `patience_s`: seconds of silence before the first line."""
        self._total, self._count, self._patience = total, 0, patience_s
        self._stream = stream or sys.stderr or io.StringIO()  # a process may have no stderr at all
        self._live = self._stream.isatty()
        self._start = time.monotonic()
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
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
            wait = self._tick()
            self._say()

    def _tick(self) -> float:
        """Seconds between two lines."""
        return _TICK_S

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


class Rate(Progress):
    """Progress of a long run: the rate and the time left, with a bar on a terminal, else a line every 10 s.

    The rate counts from the first report on, so that a slow start does not distort it.
    """

    def __init__(
        self,
        total: int | None,
        stream: TextIO | None = None,
        patience_s: float = PATIENCE_S,
        *,
        there: int = 0,
        what: str = "images",
    ) -> None:
        """`total`: None if unknown; `there`: how many an earlier run made; `what` is counted."""
        super().__init__(total or 0, stream, patience_s)
        self._count, self._what = there, what
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def done(self, count: int) -> None:
        """`count` are ready, those of earlier runs included."""
        self._last = time.monotonic()
        if self._first is None and count > self._count:
            self._first = (self._last, count)
        super().done(count)

    def add(self, more: int) -> None:
        """`more` are ready; never more than the total."""
        self.done(min(self._count + more, self._total))

    def rate(self) -> float:
        """How many per second from the first report to the last; 0 before there were two."""
        seconds = 0.0 if self._first is None else self._last - self._first[0]
        return 0.0 if self._first is None or seconds <= 0 else (self._count - self._first[1]) / seconds

    def _tick(self) -> float:
        return super()._tick() if self._live else _PLAIN_S

    def _say(self) -> None:
        text = self._line()
        if self._live:
            self._write(f"\r\x1b[K{text}")
        elif text != self._said:
            self._write(f"{text}\n")
        self._said = text

    def _line(self) -> str:
        rate, left = self.rate(), self._total - self._count
        if not self._total:
            return f"{self._count:,} {self._what}"
        bar = ""
        if self._live:
            full = _BAR * self._count // self._total
            bar = f"[{'#' * full}{'.' * (_BAR - full)}] "
        text = f"{bar}{self._count:,} of {self._total:,} {self._what}"
        return f"{text}, {rate:.1f} per second, {_clock(left / rate)} left" if rate > 0 else text


def _clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
