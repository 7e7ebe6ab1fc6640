"""Freed memory given back to the system between the stages of an export."""

from __future__ import annotations

import ctypes
import gc
import sys

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE_BLOCK = 1 << 20  # bytes; glibc's own threshold grows to 32 MB, and most weights are smaller


def give_back_memory() -> None:
    """Return what the C library keeps of freed memory; without it the stages' peaks add up (gigabytes at SD's size)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl gives memory back by itself
        if trim is not None:
            trim(0)


def keep_no_large_blocks() -> None:
    """From now on the C library gives a freed block of LARGE_BLOCK or more straight back to the system.

    Allocations become slower (new pages each time): for models whose weights would otherwise fill the memory twice.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)
