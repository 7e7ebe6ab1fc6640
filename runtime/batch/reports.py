"""What a batch's workers report to the driver: how many rows are done, which pictures are written, what failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from runtime.batch.rows import Row
from runtime.errors import BundleError

REPORT_S = 1.0  # between a worker's reports, however long a picture takes
Report = dict[str, Any]  # "count" of rows since the last; "made": [facts, ms] each; "failed"; "fatal": why the run ends
Made = tuple[dict[str, Any], dict[str, float] | None]  # facts and milliseconds; None where the picture already existed


class Reports:
    """Collects the outcomes of rows, and decides when to report."""

    def __init__(self) -> None:
        self._told = time.monotonic()
        self._report = _empty()

    def take(self, row: Row, future: Future[Made]) -> None:
        """A picture that is written, or a row that failed; an OutputError is not a row's fault and is raised."""
        try:
            facts, ms = future.result()
        except (BundleError, ValueError) as error:
            self.fail(row, error)
        else:
            self.hold(row, facts, ms)

    def hold(self, row: Row, facts: dict[str, Any], ms: dict[str, float] | None) -> None:
        """A picture that is made."""
        self._report["count"] += 1
        self._report["made"].append([facts, ms])

    def fail(self, row: Row, error: Exception) -> None:
        """A row that cannot be made."""
        facts = {"row": row.row, "line": row.line, "prompt": row.prompt, "seed": row.seed, "error": str(error)}
        self._report["count"] += 1
        self._report["failed"].append(facts)

    def due(self, made: bool = True) -> Iterator[Report]:
        """A report when the last was a while ago; without `made`, only the count."""
        if time.monotonic() - self._told < REPORT_S:
            return
        self._told = time.monotonic()
        if made:
            yield self.rest()
        else:
            yield {**_empty(), "count": self._report["count"]}
            self._report["count"] = 0

    def rest(self) -> Report:
        """What was not reported yet."""
        report, self._report = self._report, _empty()
        return report


def fatal(error: Exception) -> Report:
    """The report of a worker that cannot go on."""
    return {**_empty(), "fatal": str(error)}


def _empty() -> Report:
    return {"count": 0, "made": [], "failed": [], "fatal": None}
