"""Bulk generation: `python -m runtime.batch prompts.csv --out pictures`. A killed run resumes where it stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from runtime.batch.rows import SHARD_SIZE
from runtime.batch.start import start
from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.variation.options import add_variation
from runtime.watermark.options import add_watermark

EXAMPLES = """examples:
  python -m runtime.batch prompts.txt --out pictures
  python -m runtime.batch prompts.csv --out pictures --workers 2 --format webp --quality 90 --json
  python -m runtime.batch prompts.jsonl --out shards --webdataset --shard-size 500
  python -m runtime.batch prompts.csv --out /shared/pictures --ray-address auto

prompts: .csv (header; columns prompt, seed, width, height, name, variation), .txt (one prompt per line), .jsonl (the
same fields); all but prompt may be left out. variation is auto, none or such as "facing=left; size=large". The same
command resumes after an interruption; rows may be added at the end.
exit code: 0 all made, 1 some rows failed (failed.jsonl), 2 nothing could be done, 130 interrupted.
"""


def parser() -> Parser:
    """The arguments; names and meaning as in `python -m runtime`."""
    made = command_parser(
        "runtime.batch", "Makes a picture for every row of a prompts file, on all cores or on a Ray cluster.", EXAMPLES
    )
    add = made.add_argument
    add("prompts", metavar="PROMPTS", help="a .csv, .txt or .jsonl file, or - for standard input")
    add("--out", required=True, metavar="DIR", help="a new folder, or that of the run to resume")
    add("--workers", type=int, metavar="N", help="single-threaded processes; default: one per core or GPU")
    add("--ray-address", metavar="A", help="a Ray cluster that shares DIR, such as auto or ray://head:10001")
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    add("--num-inference-steps", type=int, default=1, metavar="N", help="1 (the default) to 4")
    add("--seed", type=int, default=0, metavar="N", help="rows without a seed derive theirs from it and their number")
    add_variation(made)
    add_watermark(made)
    add("--format", default="png", choices=("png", "webp", "jpeg"), help="default png, lossless")
    add("--quality", type=int, metavar="Q", help="1 to 100 for webp and jpeg; default 90")
    add("--webdataset", action="store_true", help="tar shards instead of files")
    add("--shard-size", type=int, metavar="N", help=f"pictures per shard, with --webdataset; default {SHARD_SIZE}")
    add("--keep", action="append", default=[], metavar="COLUMN", help="copy this extra column into the manifest")
    add("--prompts-format", choices=("csv", "txt", "jsonl"), help="where the file name does not say; txt for -")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see EXAMPLES."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> int:
    """Makes what is left to make and prints the manifest's path, or the report; 1 when rows failed."""
    try:
        report = start(args)
    except KeyboardInterrupt:
        tell(f"stopped: finished pictures stay in {args.out}; the same command resumes from there")
        raise
    for line in report.pop("warnings"):
        tell(f"warning: {line}")
    rows, made, there, failed = (f"{report[name]:,}" for name in ("rows", "made", "there", "failed"))
    tell(f"{rows} rows read, {made} images made, {there} there before, {failed} failed")
    print_result(json.dumps(report) if args.json else report["manifest"])
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
