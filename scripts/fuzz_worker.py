"""One process of the fuzzer: corrupts a bundle, loads it under watch, makes pictures with what loads, and reports.

It reads one case per line ("KIND INDEX"), and answers with one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import struct
import sys
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import runtime
from scripts.fuzz_bases import sign
from scripts.fuzz_files import AS_LISTED, RESIGNED
from scripts.fuzz_graphs import GRAPHS

MOST_BYTES = 2_000_000_000  # of memory beyond what the process has before its first case
KINDS = {**AS_LISTED, **RESIGNED, **GRAPHS}
_IN_ACCESS, _IN_OPEN, _IN_NONBLOCK = 0x1, 0x20, 0o4000


class Watch:
    """Sees every read outside the bundle: Python's by its audit hook, native code's by inotify."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._libc.inotify_init1(_IN_NONBLOCK)
        self._allowed: tuple[str, ...] = ()
        self._seen: list[str] = []
        root = Path(__file__).resolve().parent.parent
        self._code = (
            sys.prefix,
            sys.base_prefix,
            os.path.realpath(sys.prefix),
            *(str(root / one) for one in ("runtime", "scripts")),
        )
        sys.addaudithook(self._audit)

    def start(self, bundle: Path, canaries: Path) -> None:
        """From here on, only `bundle` and the programs' own code may be read; native code is seen in `canaries`."""
        for folder in (canaries, *(path for path in canaries.rglob("*") if path.is_dir())):
            self._libc.inotify_add_watch(self._queue, os.fsencode(folder), _IN_OPEN | _IN_ACCESS)
        self._events()
        self._seen = []
        self._allowed = (os.path.realpath(bundle) + os.sep, *(one + os.sep for one in self._code))

    def stop(self) -> list[str]:
        """What was read that must not be."""
        self._allowed = ()
        return self._seen + self._events()

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and self._allowed and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not path.startswith(self._allowed):
                self._seen.append(path)

    def _events(self) -> list[str]:
        try:
            data = os.read(self._queue, 65536)
        except BlockingIOError:
            return []
        names, place = [], 0
        while place < len(data):
            _, mask, _, size = struct.unpack_from("iIII", data, place)
            name = data[place + 16 : place + 16 + size].rstrip(b"\0").decode()
            if not mask & 0x8000:  # IN_IGNORED: the folder of the case before was removed
                names.append(f"outside/{name}")
            place += 16 + size
        return names


def prepare(kind: str, index: int, seed: int, bases: Path, case: Path) -> Path:
    """Writes the case's bundle into `case`/bundle, beside `case`/outside; the same arguments, the same bytes."""
    random = Random(f"{seed} {kind} {index}")
    shutil.rmtree(case, ignore_errors=True)
    bundle, outside = case / "bundle", case / "outside"
    shutil.copytree(bases / random.choice(["tiny", "int8"]), bundle)
    outside.mkdir()
    (outside / "canary").write_bytes(random.randbytes(4096))
    KINDS[kind](random, bundle)
    if kind not in AS_LISTED:
        sign(bundle)
    return bundle


def outcome(bundle: Path) -> tuple[str, str]:
    """(what became of it, the message): refused, refused while running, accepted, or what must not happen."""
    stage = "refused"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe = runtime.load(bundle, provider="cpu", threads=1)
            stage = "refused running"
            pipe("a red fox, 3d style", seed=1)
            pipe("a red fox", seed=1, image=np.zeros((8, 8, 3), np.uint8))
        return "accepted", ""
    except runtime.BundleError as error:
        line = str(error)
        clear = line.isprintable() and 10 < len(line) < 2000
        return stage if clear else "unclear", line
    except MemoryError as error:
        return "memory", repr(error)
    except Exception as error:
        return "exception", repr(error)[:500]


def main() -> None:
    """Serves cases until its input ends: arguments are the seed, the folder of the bases, and one to work in."""
    seed, bases, work = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native code may print what it likes
    outcome(bases / "tiny")  # loads what is loaded lazily
    watch = Watch()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, size + MOST_BYTES))
    start = _resident()
    print(json.dumps({"ready": True}), flush=True, file=answers)
    for line in sys.stdin:
        kind, index = line.split()
        bundle = prepare(kind, int(index), seed, bases, work)
        print(json.dumps({"prepared": True}), flush=True, file=answers)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        watch.start(bundle, work / "outside")
        found, message = outcome(bundle)
        read = watch.stop()
        grown = _resident("VmHWM") - start
        if read:
            found, message = "escape", f"read {read[:3]}; {found}: {message}"
        elif grown > MOST_BYTES:
            found, message = "memory", f"{grown / 1e6:.0f} MB"
        answer = {"outcome": found, "message": message, "grown_mb": round(grown / 1e6)}
        print(json.dumps(answer), flush=True, file=answers)


def _resident(key: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
