"""Threads: a task beside the caller's, and objects that must be reopened in a forked child."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol


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


class Forked(Protocol):
    """Something that `watch` takes."""

    def forked(self) -> None:
        """Called in the child, before anything else there."""


_owners: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(owner: Forked) -> None:
    """Has `owner.forked` called in every child process, for as long as the owner lives."""
    _owners.add(owner)


def _after_fork() -> None:
    for owner in list(_owners):
        owner.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
