"""`python -m runtime.bench.worker ENGINE.json`: one engine of `runtime.bench` in a process of its own.

It reads requests, a line of JSON each, from stdin: {"prompt", "seed"} makes a picture, with "path" writes it too, and
answers {"ms"}; {"stop"} answers {"peak_rss_mb"} and ends. What an engine prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO

from runtime.bench.engines import Engine
from runtime.bench.machine import memory_mb


def serve(engine: Engine, requests: TextIO, answers: TextIO) -> None:
    """Open the engine, report that, and answer requests until asked to stop."""

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    draw = engine.open()
    answer(ready=True)
    for line in requests:
        asked = json.loads(line)
        if asked.get("stop"):
            answer(peak_rss_mb=memory_mb())
            return
        start = time.perf_counter()
        image = draw(asked["prompt"], asked["seed"])
        ms = (time.perf_counter() - start) * 1000
        if "path" in asked:
            image.save(asked["path"])
        answer(ms=ms)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print where they like
    serve(Engine(**json.loads(sys.argv[1])), sys.stdin, answers)


if __name__ == "__main__":
    main()
