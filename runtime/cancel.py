"""Stopping a picture that is no longer wanted, from another thread, within milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.errors import Cancelled


def check_token(cancel: object) -> None:
    """ValueError unless it is a CancelToken, or None."""
    if cancel is not None and not isinstance(cancel, CancelToken):
        raise ValueError(f"cancel must be a runtime.CancelToken, not {type(cancel).__name__}")


class CancelToken:
    """Give it to calls as `cancel=token`; `token.cancel()` makes those at work, and all later ones, raise Cancelled.

    A call looks at it between networks, and ONNX Runtime between the operators of one. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._stops: set[Callable[[], None]] = set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop what is at work, and refuse what comes; calling it again does nothing."""
        with self._lock:
            self._cancelled = True
            for stop in self._stops:
                stop()

    def check(self) -> None:
        """Raises Cancelled once `cancel` was called."""
        if self._cancelled:
            raise Cancelled("the picture was cancelled")

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Makes `cancel` call `stop` while the block runs; raises Cancelled before the block if it came first."""
        with self._lock:
            self.check()
            self._stops.add(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.discard(stop)
