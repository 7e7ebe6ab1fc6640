"""One start of a batch: what is left to do, the pool at work, and the folder's files kept up to date."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from runtime.batch import plan as batch_plan
from runtime.batch.folder import MANIFEST, TIMES, Folder
from runtime.batch.ledger import to_line
from runtime.batch.ray_pool import Pool
from runtime.batch.reports import Report
from runtime.batch.rows import Row, Settings
from runtime.errors import Error
from runtime.progress import Rate


@dataclass
class Run:
    """A start of a run, in its locked folder."""

    folder: Folder
    settings: Settings
    bundle: str | None  # as workers should load it
    plan: batch_plan.Plan = field(init=False)
    there: int = 0  # pictures of earlier starts
    truncated: int = 0  # prompts longer than the text encoder reads
    workers: int = 0
    seconds: float = 0.0
    rate: float = 0.0

    @property
    def unit(self) -> int:
        """Rows that are made together: those of a shard."""
        return self.settings.shard_size or 1

    def prepare(self, rows: Callable[[], Iterator[Row]]) -> None:
        """Reads and checks everything; ValueError, before anything is written, when this start is not allowed."""
        folder = self.folder
        folder.agree(self.settings.to_dict())
        folder.mend()
        prefix = 0 if folder.begun is None else int(folder.begun.get("rows", 0))
        with Rate(None, what="rows read") as progress:
            self.plan = batch_plan.write(_counted(rows(), progress), folder.todo, self.unit, self._settled, prefix)
        folder.agree_on_rows(self.plan.prefix_sha256)
        folder.begin({**self.settings.to_dict(), "rows": self.plan.rows, "rows_sha256": self.plan.sha256})
        self._forget_unfinished_shards()
        self.there = folder.manifest.count

    def go(self, address: str | None, workers: int | None, debug: bool) -> None:
        """Makes the rows left to do. A pass with gaps left by a dead worker is followed by another."""
        start = time.monotonic()
        try:
            if self.plan.todo:
                with Rate(self.plan.rows, there=self.there) as progress:
                    self._passes(Pool(address, workers, self.settings.provider, debug), progress)
        finally:
            self.folder.settle()
        self.folder.finish()
        self.seconds = time.monotonic() - start

    def _passes(self, opened: Pool, progress: Rate) -> None:
        """Hands out what is left until nothing is."""
        with opened as pool:
            while self.plan.todo:
                self._pass(pool, progress)
                before, self.plan = self.plan.todo, self._left()
                if self.plan.todo >= before:
                    raise Error(f"{before} rows were handed out and not one came back: see --debug")
            self.workers, self.rate = pool.workers, progress.rate()

    def report(self) -> dict[str, Any]:
        """For `--json`; images_per_s excludes the startup of Ray and of the sessions."""
        folder, failed = self.folder, self.folder.failed.count
        made = folder.manifest.count - self.there
        warnings = []
        if failed:
            warnings.append(f"rows that failed: {failed:,} of {self.total:,}; {folder.failed.path} says why")
        if self.truncated:
            cut = f"prompts that were too long and cut: {self.truncated:,}"
            warnings.append(f"{cut}; see dropped_words in the manifest")
        return {
            "manifest": str(folder.path / MANIFEST),
            "rows": self.total,
            "made": made,
            "there": self.there,
            "failed": failed,
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.rate, 3) or None,
            "workers": self.workers,
            "provider": self.settings.provider,
            "bundle": self.settings.bundle,
            "warnings": warnings,
        }

    @property
    def total(self) -> int:
        """All rows of the prompts."""
        assert self.folder.begun is not None
        return int(self.folder.begun["rows"])

    def _settled(self, row: int) -> bool:
        return row in self.folder.manifest or row in self.folder.failed

    def _left(self) -> batch_plan.Plan:
        return batch_plan.write(batch_plan.read(self.folder.todo), self.folder.todo, self.unit, self._settled)

    def _forget_unfinished_shards(self) -> None:
        """A shard is written whole: where a row of it is left to do, all its rows are."""
        before = self.folder.manifest.count
        if self.unit > 1 and before:
            for row in batch_plan.read(self.folder.todo):
                self.folder.manifest.forget(row.row)
            if self.folder.manifest.count != before:
                self.folder.manifest.sort()

    def _pass(self, pool: Pool, progress: Rate) -> None:
        """Hands all chunks out once, and takes in what comes back."""
        folder = self.folder
        arguments = {"settings": self.settings, "folder": str(folder.path.resolve()), "bundle": self.bundle}
        chunks = list(self.plan.chunks(pool.workers, self.unit))
        with open(folder.path / TIMES, "ab") as times:
            for report in pool.reports(chunks, {**arguments, "todo": str(folder.todo.resolve())}):
                if report["fatal"]:
                    raise Error(report["fatal"])
                self._take(report)
                times.writelines(to_line({"row": facts["row"], "ms": ms}) for facts, ms in report["made"] if ms)
                times.flush()
                progress.add(report["count"])

    def _take(self, report: Report) -> None:
        manifest, failed = self.folder.manifest, self.folder.failed
        for facts, _ in report["made"]:
            self.truncated += facts["row"] not in manifest and "dropped_words" in facts
            manifest.add(facts["row"], to_line(facts))
        for facts in report["failed"]:
            failed.add(facts["row"], to_line(facts))
        manifest.flush()
        failed.flush()


def _counted(rows: Iterator[Row], progress: Rate) -> Iterator[Row]:
    for row in rows:
        yield row
        progress.done(row.row + 1)
