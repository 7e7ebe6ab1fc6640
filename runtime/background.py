"""Work beside the main thread: hashing files and opening graphs, which let other threads run meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Task:
    """A call in a thread of its own, started at once; `wait` ends it and raises what it raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when the call has; raises its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # handed to whoever waits
            self._error = error
