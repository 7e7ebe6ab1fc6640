"""Signals that stop a program: exceptions while it works, held back while it saves and cleans up."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# By default these three end a program; Python itself turns the first into KeyboardInterrupt.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Held:
    """Signals are noted while `acting` is False, and raise KeyboardInterrupt or SystemExit(128 + n) while it is True.

    A noted signal acts as soon as it may. One that has raised stays noted, since code between here and there may
    swallow the exception.
    """

    def __init__(self) -> None:
        self.acting = False
        self.noted: int | None = None

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """The signal handler."""
        self.noted = number
        if self.acting:
            self.act()

    def act(self) -> None:
        """Raise for the signal that was noted, if one was."""
        if self.noted is not None:
            raise KeyboardInterrupt if self.noted == signal.SIGINT else SystemExit(128 + self.noted)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within the block signals raise."""
        self.acting = True
        try:
            self.act()
            yield
        finally:
            self.acting = False
        self.act()


@contextmanager
def signals_held() -> Iterator[Held]:
    """Hold back the signals that would stop this program; they act in `Held.released` and when the block ends.

    Handlers are put back afterwards. Only in the main thread, and only where nobody else handles or ignores a signal.
    """
    held = Held()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        ours = [number for number in STOPPING if signal.getsignal(number) in DEFAULTS]
        before = {number: signal.signal(number, held.handle) for number in ours}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        tell(held.noted)
    held.act()


def tell(number: int | None) -> None:
    """One line on stderr for a signal that is not the user's own Ctrl-C."""
    if number is not None and number != signal.SIGINT:
        print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
