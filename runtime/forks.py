"""What has to begin anew in a forked child: locks that other threads held, and pools of threads."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


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
