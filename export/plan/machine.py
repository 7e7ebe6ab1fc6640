"""How much memory and disk this machine has to spare."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that can still be allocated, swap included; None where the system does not say."""
    known = [room for room in (system_memory(), group_memory()) if room is not None]
    return min(known, default=None)


def system_memory() -> int | None:
    """MemAvailable and SwapFree of the Linux kernel."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        return None


def group_memory() -> int | None:
    """What this process's control groups allow it (cgroup v2, or v1's memory controller); None without a limit."""
    rooms = []
    for folder in group_folders():
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                limit, taken = int((folder / most).read_text()), int((folder / used).read_text())
            except (OSError, ValueError):  # no such file, or "max"
                continue
            rooms.append(max(0, limit - taken + cached(folder)))
    return min(rooms, default=None)


def group_folders() -> Iterator[Path]:
    """The folder of each control group that this process is in, up to the root."""
    try:
        lines = GROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = GROUPS / controllers
        inner = Path(path.lstrip("/"))
        yield from (root / folder for folder in (inner, *inner.parents))


def cached(folder: Path) -> int:
    """Bytes of a group's usage that are cached files, which the kernel drops when memory is short."""
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))


def free_disk(path: Path) -> int:
    """Bytes free where `path` would be written: on the disk of its nearest parent that exists."""
    return shutil.disk_usage(existing(path)).free


def same_disk(a: Path, b: Path) -> bool:
    """Whether two paths would be written to one file system."""
    return existing(a).stat().st_dev == existing(b).stat().st_dev


def existing(path: Path) -> Path:
    """The nearest of `path` and its parents that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
