"""`python -m runtime.bench`: how fast a bundle draws here, alone or beside other engines on the same weights.

Every engine works in a process of its own, opened once; they make their pictures in turns, so that other load on the
machine affects all of them. A ratio is our figure over a peer's, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.bench.engines import PEERS
from runtime.bench.machine import cores
from runtime.bench.report import measure, table
from runtime.command import Parser, command_parser, print_result, run_command

EXAMPLES = """examples:
  python -m runtime.bench
  python -m runtime.bench --against diffusers,optimum,openvino
  python -m runtime.bench --bundle out/sd21-int8 --checkpoint out/sd21 --against openvino --turns 5 --cold-runs 0"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("runtime.bench", __doc__, EXAMPLES)
    add = made.add_argument
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    add("--against", default="", metavar="PEER[=DIR],...", help=f"any of {', '.join(PEERS)}; DIR: what it opens")
    add("--checkpoint", type=Path, metavar="DIR", help="that the bundle was made from, for the peers")
    add("--work", type=Path, metavar="DIR", help="where the peers' exports are looked for; default the cache folder")
    add("--turns", type=int, default=20, metavar="N", help="pictures per engine; default 20")
    add("--cold-runs", type=int, default=3, metavar="N", help="starts per engine; default 3, 0 for none")
    add("--threads", type=int, default=cores(), metavar="N", help="of every engine; default %(default)s, the cores")
    return made


def work(args: argparse.Namespace) -> None:
    """Measures, and prints the table or the report."""
    facts = measure(args)
    print_result(json.dumps(facts, indent=2) if args.json else table(facts))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
