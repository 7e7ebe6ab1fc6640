"""`python -m scripts.soak`: thousands of pictures from one pipe; its memory must not grow, nor its pictures change.

Every EVERY-th picture repeats the first one's prompt and seed and must have its pixels. Memory is what the
process holds (resident set), looked at after each hundred pictures: from the first hundred to the last it may grow by
LIMIT. Exit code 1 when either fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import runtime
from runtime.bench.run import prompt_of
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.progress import Rate

EXAMPLES = """examples:
  python -m scripts.soak --pictures 10000"""
LIMIT = 1.05
EVERY = 500
HUNDRED = 100  # pictures between two looks at the memory


def resident_mb() -> float:
    """The memory that this process holds now, in 10^6 bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def soak(pipe: runtime.Pipeline, pictures: int) -> dict[str, Any]:
    """The report: memory after the first and the last hundred, the repetitions that differed."""
    first = pipe(prompt_of(0), seed=0)[0].tobytes()
    memory, differing = [], []
    with Rate(pictures) as progress:
        for i in range(1, pictures + 1):
            repeated = i % EVERY == 0
            image = pipe(prompt_of(0 if repeated else i), seed=0 if repeated else i)[0].tobytes()
            if repeated and image != first:
                differing.append(i)
            if i % HUNDRED == 0:
                memory.append(resident_mb())
            progress.done(i)
    growth = max(memory) / memory[0]
    return {
        "pictures": pictures,
        "repetitions": pictures // EVERY,
        "differing": differing,
        "first_mb": round(memory[0], 1),
        "most_mb": round(max(memory), 1),
        "last_mb": round(memory[-1], 1),
        "growth": round(growth, 4),
        "passed": not differing and growth <= LIMIT,
    }


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.soak", __doc__, EXAMPLES, json=False)
    made.add_argument("--pictures", type=int, default=5000)
    made.add_argument("--bundle", help="default sticker-128")
    return made


def work(args: argparse.Namespace) -> int:
    """Draw, and print what the memory did; 1 when it grew or a picture changed."""
    with runtime.load(args.bundle) as pipe:
        facts = soak(pipe, max(args.pictures, 2 * HUNDRED))
    print_result(json.dumps(facts, indent=2))
    return 0 if facts["passed"] else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
