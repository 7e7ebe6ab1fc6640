"""Corrupts bundles in every way it knows, and checks that each ends in a BundleError or a picture.

    python -m scripts.fuzz_bundle --cases 10000 --seed 1
    python -m scripts.fuzz_bundle --kind memory_grown --cases 100
    python -m scripts.fuzz_bundle --kind memory_grown --case 17        # repeats one case, named by its reproducer

A failure is a crash, a hang of more than 5 seconds, more than 2 GB of memory, a read outside the bundle, or any
exception but BundleError; its bundle is kept below --out. Linux only: reads of native code are seen by inotify.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from runtime.command import Parser, command_parser, run_command
from runtime.progress import Rate
from scripts.fuzz_bases import make_bases
from scripts.fuzz_worker import KINDS

ROOT = Path(__file__).resolve().parent.parent
HANG_S, BLOCKED_S, START_S = 5.0, 30.0, 120.0
FINE = ("refused", "refused running", "accepted")
CASES_A_PROCESS = 500


@dataclass
class Result:
    """What became of one case."""

    kind: str
    index: int
    outcome: str
    message: str = ""
    grown_mb: int = 0
    kept: str = ""


@dataclass
class Fuzzer:
    """A run: its cases, its processes and their results."""

    seed: int
    bases: Path
    work: Path
    out: Path
    results: list[Result] = field(default_factory=list)

    def run(self, cases: list[tuple[str, int]], workers: int) -> None:
        """Every case once, in `workers` processes side by side."""
        queue: SimpleQueue[tuple[str, int]] = SimpleQueue()
        for case in cases:
            queue.put(case)
        threads = [threading.Thread(target=self._serve, args=(i, queue)) for i in range(workers)]
        with Rate(len(cases), what="cases") as progress:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.2)
                threads[-1].join(0.2)
                progress.done(len(self.results))

    def _serve(self, number: int, queue: SimpleQueue[tuple[str, int]]) -> None:
        process, served = None, 0
        folder = self.work / f"case-{number}"
        while True:
            try:
                kind, index = queue.get_nowait()
            except Empty:
                break
            if process is None or served >= CASES_A_PROCESS:
                _end(process)
                process, served = Process(self.seed, self.bases, folder), 0
            result = process.case(kind, index)
            served += 1
            if result.outcome not in FINE:
                result.kept = self._keep(result, folder)
            if not process.alive:
                process = None
            self.results.append(result)
        _end(process)

    def _keep(self, result: Result, folder: Path) -> str:
        """Moves the case's folder to the reproducers."""
        target = self.out / f"{result.kind}-{result.index}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
        facts = {"seed": self.seed, "outcome": result.outcome, "message": result.message}
        (target / "case.json").write_text(json.dumps(facts) + "\n")
        return str(target)


class Process:
    """A child process that serves cases until one kills it."""

    def __init__(self, seed: int, bases: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "scripts.fuzz_worker", str(seed), str(bases), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ADDKIT_CACHE": "off"}
        self._child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            bufsize=0,  # a line that was read ahead is one that `select` does not see
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.alive = self._answer(START_S) is not None

    def case(self, kind: str, index: int) -> Result:
        """Runs one case; a child that does not answer in time is ended."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{kind} {index}\n".encode())
        prepared = self._answer(START_S)
        answer = None if prepared is None else self._result()
        if answer is not None:
            return Result(kind, index, **answer)
        self.alive = False
        code = self._child.poll()
        self.end()
        if prepared is None:
            return Result(kind, index, "fuzzer", f"the case could not be made: exit code {code}")
        return Result(kind, index, "hang" if code is None else "crash", "" if code is None else f"exit code {code}")

    def _result(self) -> dict[str, Any] | None:
        """What became of the case; None when it took 5 seconds of processor time, or 30 by the clock."""
        began, spent = time.monotonic(), self._processor_s()
        while self._child.poll() is None and time.monotonic() - began < BLOCKED_S:
            answer = self._answer(1.0)
            if answer is not None:
                return answer
            if self._processor_s() - spent > HANG_S:
                break
        return None

    def _processor_s(self) -> float:
        """Seconds that the child computed; a machine that is busy with others does not count as a hang."""
        try:
            fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Ends the child."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The next line, parsed; None when none comes in time or the child is gone."""
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], seconds)
        line = self._child.stdout.readline() if ready else b""
        if not line and ready:
            self._child.wait()
        return dict(json.loads(line)) if line else None


def _end(process: Process | None) -> None:
    if process is not None:
        process.end()


def fuzz(cases: list[tuple[str, int]], seed: int, out: Path, workers: int) -> list[Result]:
    """Runs the cases and returns what became of each; the bundles of failures are stored below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as work:
        make_bases(Path(work) / "bases")
        fuzzer = Fuzzer(seed, Path(work) / "bases", Path(work), out)
        fuzzer.run(cases, workers)
    if len(fuzzer.results) != len(cases):
        raise RuntimeError(f"{len(cases) - len(fuzzer.results)} cases have no result: the fuzzer itself failed")
    return sorted(fuzzer.results, key=lambda result: (result.kind, result.index))


def table(results: list[Result]) -> str:
    """Counts by kind and outcome, one kind per line."""
    counts = Counter((result.kind, result.outcome) for result in results)
    outcomes = [*FINE, *sorted({result.outcome for result in results} - set(FINE))]
    rows = [["kind", "cases", *outcomes]]
    for kind in sorted({result.kind for result in results}):
        row = [counts[kind, outcome] for outcome in outcomes]
        rows.append([kind, str(sum(row)), *map(str, row)])
    totals = [sum(counts[kind, outcome] for kind in KINDS) for outcome in outcomes]
    rows.append(["all", str(len(results)), *map(str, totals)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


EXAMPLES = """examples:
  python -m scripts.fuzz_bundle --cases 10000 --seed 1
  python -m scripts.fuzz_bundle --kind memory_grown --case 17"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.fuzz_bundle", __doc__, EXAMPLES)
    made.add_argument("--cases", type=int, default=1000, metavar="N", help="how many; spread evenly over the kinds")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed makes the same bundles")
    made.add_argument("--kind", choices=sorted(KINDS), help="only this kind")
    made.add_argument("--case", type=int, metavar="I", help="only this case of each kind")
    made.add_argument("--workers", type=int, default=2, metavar="N")
    made.add_argument("--out", type=Path, default=ROOT / "out" / "fuzz", help="where the bundles of failures are kept")
    return made


def work(args: argparse.Namespace) -> int:
    """Fuzz, and print what came of it; 1 when a case failed."""
    kinds = [args.kind] if args.kind else list(KINDS)
    cases = [(kind, args.case) for kind in kinds]
    if args.case is None:
        cases = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(args.cases)]
    results = fuzz(cases, args.seed, args.out, args.workers)
    failures = [result for result in results if result.outcome not in FINE]
    if args.json:
        counts = Counter((result.kind, result.outcome) for result in results)
        report = {kind: {outcome: n for (one, outcome), n in counts.items() if one == kind} for kind in KINDS}
        most = max(result.grown_mb for result in results)
        print(
            json.dumps(
                {"cases": len(results), "kinds": report, "most_mb": most, "failures": [vars(one) for one in failures]}
            )
        )
    else:
        print(table(results))
        for one in failures:
            print(f"{one.outcome}: {one.kind} {one.index}: {one.message[:200]} ({one.kept})")
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
