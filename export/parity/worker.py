"""One export on one engine in its own process: `python -m export.parity.worker FOLDER`, called by export.parity.

FOLDER contains job.json and reference.npz; result.json and pictures.npy are written there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from export.checks.measure import Network
from export.checks.reference import StoredReference, pictures
from export.parity.engines import Engine, NotHere, open_network
from runtime.bench.machine import memory_mb

RUNS, LEAST_RUNS, ENOUGH_S = 7, 3, 60.0  # single pictures, of which the median is taken; fewer for a slow model
JOB, RESULT, PICTURES, REFERENCE = "job.json", "result.json", "pictures.npy", "reference.npz"
ROOT = Path(__file__).resolve().parents[2]


def run_apart(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a fresh process; its result, or {"status": "failed", "why"} when the process dies."""
    for name in (RESULT, PICTURES):
        (folder / name).unlink(missing_ok=True)
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "export.parity.worker", str(folder)]
    done = subprocess.run(
        command,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode == 0 and (folder / RESULT).is_file():
        found: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return found
    return {"status": "failed", "why": why_it_died(done.returncode, done.stderr)}


def why_it_died(code: int, errors: str) -> str:
    """One line about a process that ended early."""
    if code == -9:
        return "its process was killed, most likely for want of memory"
    if code < 0:
        return f"its process died of signal {-code}"
    lines = errors.strip().splitlines()
    return f"it cannot be run: {lines[-1][:300]}" if lines else f"its process ended with exit code {code}"


def examine(job: dict[str, Any], reference: StoredReference) -> dict[str, Any]:
    """Load the export, draw single pictures, then compare every module and picture."""
    engine = Engine(**job["engine"])
    before = memory_mb("VmRSS")
    started = time.perf_counter()
    network = open_network(job["format"], Path(job["path"]), job["facts"], engine.options)
    found: dict[str, Any] = {"load_s": round(time.perf_counter() - started, 3)} | timed(network, reference, engine)
    peak = memory_mb("VmHWM")
    figures = {"peak_rss_mb": round(peak, 1), "added_rss_mb": round(peak - before, 1)}
    found |= figures if engine.timed else dict.fromkeys(["load_s", *figures])
    parity = reference.compare(network, job["threshold_db"])
    failed = [name for name, measure in parity.modules.items() if measure.status == "failed"]
    status = "failed" if failed or parity.picture.status == "failed" else "passed"
    why = "; ".join([*(f"{name}: {parity.modules[name].why}" for name in failed), *filter(None, [parity.picture.why])])
    return found | parity.to_json() | {"status": status, "why": why}


def timed(network: Network, reference: StoredReference, engine: Engine) -> dict[str, Any]:
    """Milliseconds of the first picture and the median of those after it, one at a time in one step."""
    if not engine.timed:
        return {"first_ms": None, "latency_ms": None}
    seconds: list[float] = []
    while len(seconds) <= LEAST_RUNS or (len(seconds) <= RUNS and sum(seconds) < ENOUGH_S):
        started = time.perf_counter()
        pictures(network, reference.source, reference.ids[:1], reference.draws[:, :1])
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[1:])
    return {"first_ms": round(1000 * seconds[0], 2), "latency_ms": round(1000 * median, 2)}


def main(folder: Path) -> None:
    """Run the job in a folder."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    reference = StoredReference(folder / REFERENCE)
    try:
        found = examine(job, reference)
        np.save(folder / PICTURES, reference.drawn)
    except NotHere as error:
        found = {"status": "not run", "why": str(error)}
    (folder / RESULT).write_text(json.dumps(found), encoding="utf-8")


def job_of(path: Path, format: str, facts: dict[str, Any], engine: Engine, threshold_db: float) -> dict[str, Any]:
    """The result for `run_apart`."""
    return {
        "path": str(path.absolute()),
        "format": format,
        "facts": facts,
        "engine": asdict(engine),
        "threshold_db": threshold_db,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
