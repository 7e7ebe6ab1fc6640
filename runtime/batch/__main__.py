"""Bulk generation: `python -m runtime.batch prompts.csv --out pictures`. A killed run goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from runtime.batch.rows import SHARD_SIZE
from runtime.batch.start import start
from runtime.command import Parser, command_parser, print_result, run_command, tell

EXAMPLES = """examples:
  python -m runtime.batch prompts.txt --out pictures
  python -m runtime.batch prompts.csv --out pictures --workers 2 --format webp --quality 90 --json
  python -m runtime.batch prompts.jsonl --out shards --webdataset --shard-size 500
  python -m runtime.batch prompts.csv --out /shared/pictures --ray-address auto

prompts: .csv (a header; columns prompt, seed, width, height, name), .txt (a prompt a line), .jsonl (the same fields);
all but prompt may be left out. The same command goes on after an interruption; more rows may be added at the end.
exit code: 0 all made, 1 some rows failed (failed.jsonl), 2 nothing could be done, 130 interrupted.
"""


def parser() -> Parser:
    """The arguments; names and meaning as in `python -m runtime`."""
    made = command_parser(
        "runtime.batch", "Makes a picture of every row of a prompts file, on all cores or on a Ray cluster.", EXAMPLES
    )
    add = made.add_argument
    add("prompts", metavar="PROMPTS", help="a .csv, .txt or .jsonl file, or - for standard input")
    add("--out", required=True, metavar="DIR", help="a new folder, or that of the run to go on with")
    add("--workers", type=int, metavar="N", help="processes, a session of one thread each; default: one a core or GPU")
    add("--ray-address", metavar="A", help="a Ray cluster that shares DIR, such as auto or ray://head:10001")
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    add("--num-inference-steps", type=int, default=1, metavar="N", help="1 (the default) to 4")
    add("--seed", type=int, default=0, metavar="N", help="rows without a seed get theirs from it and their number")
    add("--format", default="png", choices=("png", "webp", "jpeg"), help="default png, lossless")
    add("--quality", type=int, metavar="Q", help="1 to 100 for webp and jpeg; default 90")
    add("--webdataset", action="store_true", help="tar shards in place of files")
    add("--shard-size", type=int, metavar="N", help=f"pictures a shard, with --webdataset; default {SHARD_SIZE}")
    add("--keep", action="append", default=[], metavar="COLUMN", help="copy this further column into the manifest")
    add("--prompts-format", choices=("csv", "txt", "jsonl"), help="where the file's name does not say; txt for -")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see EXAMPLES."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> int:
    """Makes what is left to make and prints the manifest's path, or the report; 1 when rows failed."""
    try:
        report = start(args)
    except KeyboardInterrupt:
        tell(f"stopped: what is made stays in {args.out}; the same command goes on from there")
        raise
    for line in report.pop("warnings"):
        tell(f"warning: {line}")
    print_result(json.dumps(report) if args.json else report["manifest"])
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
