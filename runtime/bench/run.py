"""The measurements of `runtime.bench`: engines in processes of their own, asked in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.bench.engines import Engine
from runtime.bench.machine import spread
from runtime.errors import Error

# No two turns have the same prompt: what is kept between calls must not make a call look fast.
SUBJECTS = ("fox", "pizza", "guitar", "rocket", "house", "sunflower", "octopus", "apple")
PLACES = ("on a table", "in the rain")
WARM_TURNS = 3


def prompt_of(turn: int) -> str:
    """The prompt of a turn."""
    return f"a {SUBJECTS[turn % len(SUBJECTS)]} number {turn}, {PLACES[turn // len(SUBJECTS) % len(PLACES)]}"


@dataclass
class Run:
    """One engine and what was measured of it."""

    engine: Engine
    version: str
    ms: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    peak_rss_mb: float = 0.0
    why: str = ""  # it was not run


class Worker:
    """A process that serves one engine. Raises Error with its last words when it dies."""

    def __init__(self, engine: Engine) -> None:
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, see stop()
        command = [sys.executable, "-m", "runtime.bench.worker", json.dumps(asdict(engine))]
        self.name = engine.name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment()
        )

    def ready(self) -> None:
        """Waits until the engine is open."""
        self._answer()

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer tells why
        return self._answer()

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = [text for text in self.errors.read().splitlines() if text.strip()] or ["it ended without a message"]
            raise Error(f"{self.name} failed: {said[-1].strip()[:300]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment() -> dict[str, str]:
    """The worker's: quiet libraries, this package found wherever it was imported from."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


def steady(runs: Sequence[Run], turns: int, done: Callable[[], None]) -> None:
    """Whole calls in turns, in an order that changes, after WARM_TURNS that are not counted; also peak memory."""
    workers: dict[str, Worker] = {}
    try:
        for run in runs:
            workers[run.engine.name] = Worker(run.engine)
            with guarded(run):
                workers[run.engine.name].ready()
        for turn in range(-WARM_TURNS, turns):
            able = [run for run in runs if not run.why]
            first = turn % len(able)
            for run in able[first:] + able[:first]:
                with guarded(run):
                    _turn(run, workers[run.engine.name], turn)
                done()
        for run in runs:
            if not run.why:
                run.peak_rss_mb = float(workers[run.engine.name].ask(stop=True)["peak_rss_mb"])
    finally:
        for worker in workers.values():
            worker.stop()


def _turn(run: Run, worker: Worker, turn: int) -> None:
    ms = float(worker.ask(prompt=prompt_of(turn + WARM_TURNS), seed=turn + WARM_TURNS)["ms"])
    if turn >= 0:
        run.ms.append(ms)


@contextmanager
def guarded(run: Run) -> Iterator[None]:
    """A peer that fails in the block counts as not run; our own failure is an error."""
    try:
        yield
    except Error as error:
        if run.engine.name == "addkit":
            raise
        run.why, run.ms = str(error), []


def cold(runs: Sequence[Run], times: int, done: Callable[[], None]) -> None:
    """Seconds from starting a process to a PNG on the disk, in turns; the first of each is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(times + 1 if times else 0):
            for run in runs:
                with guarded(run):
                    if not run.why:
                        _start(run, Path(folder, "picture.png"), turn)
                done()


def _start(run: Run, path: Path, turn: int) -> None:
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    _ours(run.engine, path, turn) if run.engine.name == "addkit" else _theirs(run.engine, path, turn)
    took = time.perf_counter() - start
    if not path.is_file():
        raise Error(f"{run.engine.name} wrote no picture")
    if turn:
        run.cold_s.append(took)


def _ours(engine: Engine, path: Path, turn: int) -> None:
    """The command that a user types, to its end."""
    command = [sys.executable, "-m", "runtime", prompt_of(turn), "--seed", str(turn), "-o", str(path)]
    command += ["--bundle", engine.folder, "--provider", engine.provider]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise Error((done.stderr.strip().splitlines() or ["python -m runtime failed"])[-1])


def _theirs(engine: Engine, path: Path, turn: int) -> None:
    """A process that opens the peer and saves one picture; its end is not waited for."""
    worker = Worker(engine)
    try:
        worker.ready()
        worker.ask(prompt=prompt_of(turn), seed=turn, path=str(path))
    finally:
        worker.stop()


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """min, median and max of ours / theirs, turn by turn."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])
