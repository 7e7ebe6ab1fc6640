"""The machine that a figure was measured on: cores, processor, memory."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor, with the instructions that decide how fast 8-bit and 16-bit arithmetic is."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        import platform

        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    wanted = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return " ".join([facts.get("model name", "CPU"), *(f for f in wanted if f in facts.get("flags", "").split())])


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """min, median, max."""
    three = (min(values), statistics.median(values), max(values))
    return dict(zip(("min", "median", "max"), (round(value, digits) for value in three), strict=True))


def memory_mb(key: str = "VmHWM") -> float:
    """VmHWM (the peak) or VmRSS (now) of this process in 10^6 bytes, libraries and mapped files included.

    0 where the system does not say. Where there is no /proc it is always the peak.
    """
    with suppress(OSError, StopIteration):  # Linux: what getrusage says there includes the parent, before exec
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes
