"""Freed memory given back to the system between the stages of an export."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back_memory() -> None:
    """Return what the C library keeps of freed memory; without it the stages' peaks add up (gigabytes at SD's size)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl gives memory back by itself
        if trim is not None:
            trim(0)
