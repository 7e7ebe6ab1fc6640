"""Write `train/demo_shard`: the small real data set that `make demo` and some tests train on.

`python -m scripts.make_demo_shard data/stickers` takes pictures of food, animals and plants in two styles.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.command import Parser, command_parser, run_command
from runtime.files import write_json
from train.data.pictures import encode_png
from train.data.shards import Record, dataset_facts, read_records, write_shard
from train.sticker.art import PACKAGE_OF_STYLE
from train.sticker.captions import group_of, style_of

GROUPS = ("food-drink", "animals-nature")
STYLES = ("fluent-3d", "fluent-flat")
TARGET = Path(__file__).resolve().parent.parent / "train" / "demo_shard"


def chosen(data: Path, split: str, limit: int) -> list[tuple[Record, bytes]]:
    pairs = [
        (record, encode_png(picture))
        for record, picture in read_records(data, split)
        if group_of(record) in GROUPS and style_of(record) in STYLES and record.weight > 0.5
    ]
    step = max(1, len(pairs) // limit)
    return pairs[::step][:limit]


EXAMPLES = """examples:
  python -m scripts.make_demo_shard data/stickers"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.make_demo_shard", __doc__, EXAMPLES, json=False)
    made.add_argument("data", type=Path, help="folder made by train.data prepare")
    return made


def work(args: argparse.Namespace) -> None:
    """Write the two shards."""
    TARGET.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, limit in (("train", 240), ("held_out", 30)):
        path = TARGET / f"{split}-00000.tar"
        counts[split] = write_shard(path, chosen(args.data, split, limit))
        print(path.name, counts[split], path.stat().st_size)
    facts = dataset_facts(args.data)
    kept = {PACKAGE_OF_STYLE[style]: facts["licences"][PACKAGE_OF_STYLE[style]] for style in STYLES}
    facts |= {"pictures": counts, "skipped": 0, "licences": kept}
    write_json(TARGET / "dataset.json", facts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
