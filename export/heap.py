"""Gives freed memory back to the system between the stages of an export."""

from __future__ import annotations

import ctypes
import gc
import sys

M_MMAP_THRESHOLD = -3  # parameter of glibc's mallopt
LARGE_BLOCK = 1 << 20  # bytes; glibc's own threshold grows to 32 MB, and most weights are smaller


def give_back_memory() -> None:
    """Return the freed memory that the C library keeps; otherwise the stages' peaks add up (gigabytes at SD's size)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl gives memory back by itself
        if trim is not None:
            trim(0)


def keep_no_large_blocks() -> None:
    """Make the C library give freed blocks of LARGE_BLOCK or more straight back to the system from now on.

    Allocations become slower (new pages each time): for models whose weights would otherwise fill the memory twice.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)
