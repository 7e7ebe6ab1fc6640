"""`python -m train.bench`: images per second of our ADD step and of a naive one, and where the time goes.

The two run in turns, a few steps each, on the same networks, data and draws; a ratio is ours over theirs, turn by
turn. `--once` takes one step of a network of any size and prints its time and peak memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from train.bench.run import beyond_naive, compare, once, table
from train.presets import PRESETS, make_config

EXAMPLES = """examples:
  python -m train.bench
  python -m train.bench --preset sticker --json
  python -m train.bench --once --preset sd21 teacher=out/sd21 data=data/stickers batch=1 micro_batch=1"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.bench", __doc__, EXAMPLES)
    made.add_argument("--preset", default="demo", help=f"settings to take: one of {', '.join(PRESETS)}")
    made.add_argument("--turns", type=int, default=5, metavar="N", help="default 5")
    made.add_argument("--steps", type=int, default=4, metavar="N", help="steps per turn; default 4")
    made.add_argument("--once", action="store_true", help="only one of our steps: time and peak memory")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see train/config.py)")
    return made


def work(args: argparse.Namespace) -> None:
    """Measure and print the figures."""
    config = make_config(args.preset, args.overrides)
    if not args.once and (unknown := beyond_naive(config)):
        raise UserError(f"the naive loop does not support {', '.join(unknown)}; use --once for such settings")
    if min(args.turns, args.steps) < 1:
        raise UserError("--turns and --steps must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = replace(config, run_dir=folder, score_pictures=0)
        result = once(config) if args.once else compare(config, args.turns, args.steps)
    lines = "\n".join(f"{name:<20}{value}" for name, value in result.items()) if args.once else table(result)
    print_result(json.dumps(result) if args.json else lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
