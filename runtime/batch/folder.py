"""The output folder of a batch: which run owns it, that only one uses it, and what a killed one left behind.

run.json         what all its pictures have in common; another start must agree with it
manifest.jsonl   one line per written picture, in row order once all are done
failed.jsonl     one line per row that could not be made, if any
times.jsonl      milliseconds per picture, the only file in which two equal runs differ
.run/            locks, and the rows left to do
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.batch.ledger import Ledger
from runtime.errors import OutputError
from runtime.files import Lock, is_partial, locked, remove_partial, take_lock, write_json

RUN, MANIFEST, FAILED, TIMES, OURS = "run.json", "manifest.jsonl", "failed.jsonl", "times.jsonl", ".run"
_PATIENCE_S = 30.0  # for the workers of a run that was just killed: they notice within seconds


class Folder:
    """An output folder that this process has locked."""

    def __init__(self, path: Path) -> None:
        """Use `open_folder`, which makes one."""
        self.path, self.todo = path, path / OURS / "rows.jsonl"
        self.manifest, self.failed = Ledger(path / MANIFEST), Ledger(path / FAILED)
        self.begun = _begun(path)

    def agree(self, settings: dict[str, Any]) -> None:
        """ValueError that names the first setting in which this start differs from the folder's run."""
        for name, value in settings.items():
            if self.begun is not None and self.begun.get(name) != value:
                was = self.begun.get(name)
                raise ValueError(
                    f"{self.path} was started with {name} {was}, not {value}: use the same again, or another --out"
                )

    def agree_on_rows(self, prefix_sha256: str | None) -> None:
        """ValueError unless the rows that the run was started with come first, in their order."""
        if self.begun is not None and prefix_sha256 != self.begun.get("rows_sha256"):
            raise ValueError(
                f"the prompts are not the {self.begun.get('rows')} that {self.path} was started with: "
                "only add rows at their end, or choose another --out"
            )

    def begin(self, settings: dict[str, Any]) -> None:
        """Writes run.json. Failed rows will be tried again, so their list starts empty."""
        if settings != self.begun:
            write_json(self.path / RUN, settings)
        self.failed.path.unlink(missing_ok=True)
        self.begun = settings

    def mend(self) -> int:
        """Clears what a killed run left: partial files, torn lines, lines without a picture. Returns how many lines."""
        self.sweep()
        _cut_torn_line(self.path / TIMES)
        sizes: dict[str, int] = {}

        def valid(facts: dict[str, Any]) -> bool:
            if not isinstance(facts["path"], str) or not isinstance(facts["bytes"], int):
                return False
            if "member" in facts:  # in a shard, which is written whole: it is there or not
                return sizes.setdefault(facts["path"], _size(self.path / facts["path"])) > 0
            return _size(self.path / facts["path"]) == facts["bytes"]

        dropped = self.manifest.read(valid)
        if dropped:
            self.manifest.sort()
        return dropped

    def finish(self) -> None:
        """Leaves a finished run's files sorted, and nothing else of ours but the locks."""
        self.manifest.sort()
        self.failed.sort()
        self.todo.unlink(missing_ok=True)

    def settle(self) -> None:
        """After the pool has ended: waits for workers that still write, and clears what they could not finish."""
        _await_workers(self.path)
        self.sweep()

    def close(self) -> None:
        """Closes the files; what is written stays for the next start."""
        self.manifest.close()
        self.failed.close()

    def sweep(self) -> None:
        """Removes what killed writers left; nobody else is at work in the folder."""
        for folder, folders, names in os.walk(self.path):
            for name in filter(is_partial, [*folders, *names]):
                remove_partial(Path(folder, name))

    def discard_if_new(self) -> None:
        """Removes a folder in which no run was started."""
        self.todo.unlink(missing_ok=True)
        if self.begun is None:
            for name in ("lock", "workers"):
                (self.path / OURS / name).unlink(missing_ok=True)
            (self.path / OURS).rmdir()
            if not any(self.path.iterdir()):
                self.path.rmdir()


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """The folder, made if need be, for this run alone; OutputError when another run uses it or it is not writable."""
    try:
        if path.is_dir():
            _begun(path)  # before anything is put into a folder of something else
        (path / OURS).mkdir(parents=True, exist_ok=True)
        busy = f"another run is writing to {path}: wait for it to end, or choose another --out"
        with locked(path / OURS / "lock", busy):
            _await_workers(path)
            folder = Folder(path)
            try:
                yield folder
            finally:
                folder.close()
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}") from error


def worker_lock(path: Path) -> Lock:
    """Held by each worker while it lives, so that no new run starts beside those of a killed one."""
    lock = take_lock(path / OURS / "workers", shared=True)
    if lock is None:
        raise OutputError(f"the run that writes to {path} is ending: start it again")
    return lock


def _begun(path: Path) -> dict[str, Any] | None:
    """run.json, None in a new folder; ValueError in a folder of something else."""
    try:
        found = json.loads((path / RUN).read_bytes())
    except FileNotFoundError:
        others = sorted(one.name for one in path.iterdir() if one.name != OURS and not is_partial(one.name))
        if others:
            what = f"{path} is not empty ({others[0]}) and no batch was started in it"
            raise ValueError(f"{what}: choose another --out") from None
        return None
    except ValueError as error:
        raise ValueError(f"cannot read {path / RUN}: {error}; choose another --out") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path / RUN} does not belong to a batch: choose another --out")
    return found


def _await_workers(path: Path) -> None:
    busy = f"workers of an earlier run still write to {path}: end them, or wait"
    with locked(path / OURS / "workers", busy, _PATIENCE_S):
        pass


def _size(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _cut_torn_line(path: Path) -> None:
    """Cuts off what follows the last line's end."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
