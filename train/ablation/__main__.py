"""`python -m train.ablation`: the rows of ADD's ablation, one setting changed at a time, at one fixed budget.

With --data fashion it makes all that it needs of Fashion-MNIST: data, autoencoder, teacher and a classifier for the
figures. Every run is a folder OUT/ROW/seed-N that resumes; rows that are finished are not run again. The table
compares the order of the rows with the paper's (2311.17042, table 1).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.command import Parser, command_parser, print_result, run_command, whole
from runtime.files import check_folder, write_text
from train.ablation import fashion, stickers
from train.ablation.fashion_data import DEBIAN
from train.ablation.rows import FIRST, ROWS, Row, rows_of

FASHION = "fashion"  # of --data
EXAMPLES = """examples:
  python -m train.ablation --data fashion --out runs/fashion --rows default --seeds 0
  python -m train.ablation --out runs/ablation
  python -m train.ablation --out runs/ablation --rows default loss=adv --seeds 0 1 --steps 100"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.ablation", __doc__, EXAMPLES)
    add = made.add_argument
    add("--out", type=Path, required=True, metavar="DIR")
    add("--data", default="data/stickers", help="folder made by train.data (default data/stickers), or fashion")
    add("--files", type=Path, default=DEBIAN, metavar="DIR", help="of fashion: the set's four files (default Debian's)")
    add("--teacher", default="sticker-128-teacher", help="of a folder: its teacher; fashion trains its own")
    add("--steps", type=whole(1), help=f"student updates (default {stickers.STEPS}, of fashion {fashion.UPDATES})")
    add("--n", type=whole(2), help=f"of a folder: pictures scored per split (default {stickers.PICTURES})")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--rows", nargs="+", default=list(FIRST), metavar="ROW", help=f"of {', '.join(ROWS)}")
    add("--threads", type=whole(0), default=0, help="of fashion: torch threads; 0 keeps torch's default")
    add("--train-only", action="store_true", help="no figures yet")
    return made


def work(args: argparse.Namespace) -> None:
    """Train and score every row of every seed, write OUT/table.md and OUT/results.json, and print the table."""
    rows = rows_of(args.rows)
    check_folder(args.out)
    results, text = of_fashion(rows, args) if args.data == FASHION else of_folder(rows, args)
    if results is None:
        return
    write_text(args.out / "table.md", text + "\n")
    write_text(args.out / "results.json", json.dumps(results, indent=1) + "\n")
    print_result(json.dumps(results) if args.json else text)


def of_fashion(rows: Sequence[Row], args: argparse.Namespace) -> tuple[fashion.Results | None, str]:
    """Results on Fashion-MNIST, and their table."""
    yardstick = fashion.Fashion(args.files, args.out, args.threads)
    yardstick.run(rows, args.seeds, yardstick.base(args.steps or fashion.UPDATES))
    if args.train_only:
        return None, ""
    results = yardstick.score(rows, args.seeds)
    return results, fashion.markdown(results)


def of_folder(rows: Sequence[Row], args: argparse.Namespace) -> tuple[stickers.Results | None, str]:
    """Results on a folder of shards, and their table."""
    base = stickers.base_config(args.teacher, Path(args.data), args.steps or stickers.STEPS)
    pictures = 0 if args.train_only else args.n or stickers.PICTURES
    results = stickers.run(rows, args.seeds, args.out, base, pictures)
    return results, "" if results is None else stickers.table(results)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
