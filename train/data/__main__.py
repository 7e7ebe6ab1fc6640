"""`python -m train.data prepare|import|world`: captioned pictures for training.

`prepare` joins the sticker set from pinned packages and `import` takes a user's own folder, both to WebDataset shards
with a held-out split; `world` makes the cut-outs that an endless world of stickers is drawn from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import Parser, command_parser, print_result, run_command, subcommand, whole
from runtime.errors import UserError
from runtime.files import check_folder, write_text
from train.data.folder import Folder, read_folder
from train.data.split import split_folder
from train.data.writer import unreadable, write_dataset
from train.sticker.packages import PACKAGES

if TYPE_CHECKING:
    from train.sticker.art import Source


def _prepare(args: argparse.Namespace) -> dict[str, object]:
    from train.sticker.art import PACKAGE_OF_STYLE, sticker_sources
    from train.sticker.compose import compositions, sticker_splits

    art = sticker_sources()
    composed = compositions(art, args.compositions)
    sources = _spread(art, args.limit) if args.limit else art
    licences = {name: PACKAGES[name].licence for name in PACKAGE_OF_STYLE.values()}
    facts = {"set": "sticker", "split": "by concept", "licences": licences}
    return write_dataset(sticker_splits(sources, composed), args.out, args.size, facts)


def _world(args: argparse.Namespace) -> dict[str, object]:
    from train.world.prepare import prepare_world

    return prepare_world(args.out, args.portraits, args.seed)


def _import(args: argparse.Namespace) -> dict[str, object]:
    folder = read_folder(args.folder)
    split = split_folder(folder.sources, args.held_out)
    if args.strict:
        _check_all(folder)
    facts = {"folder": args.folder.name, "split": split.how, "found": folder.found, "unmatched": folder.counts}
    summary = write_dataset(split.members, args.out, args.size, facts)
    rows = ({"kind": one.kind, "name": one.name, "why": one.why} for one in folder.unmatched)
    write_text(args.out / UNMATCHED, "".join(f"{json.dumps(row)}\n" for row in rows))
    return summary


def _check_all(folder: Folder) -> None:
    """UserError unless every picture has a caption and can be read, and every row has a picture."""
    amiss = [f"{one.name}: {one.why}" for one in folder.unmatched] + unreadable(folder.sources)
    if amiss:
        raise UserError(
            f"{folder.path}: {len(amiss)} left out, which --strict forbids; first {amiss[0]}. Without --strict "
            f"{UNMATCHED} and skipped.jsonl list them all"
        )


def _told(summary: dict[str, object]) -> str:
    """What was read, made and left out, on one line."""
    said = f"{summary['pictures']}, split {summary['split']}, {summary['skipped']} skipped (skipped.jsonl)"
    unmatched = summary.get("unmatched")
    if not isinstance(unmatched, dict):
        return said
    left = ", ".join(f"{count} {kind}" for kind, count in unmatched.items() if count) or "nothing unmatched"
    return f"{said}; {summary['found']} picture files found, {left} ({UNMATCHED})"


def _spread(members: Sequence[Source], limit: int) -> list[Source]:
    """`limit` sources spread evenly over the sorted list."""
    step = max(1.0, len(members) / limit)
    return [members[int(index * step)] for index in range(min(limit, len(members)))]


EXAMPLES = """examples:
  python -m train.data prepare --out data/stickers
  python -m train.data import my_pictures --out data/mine
  python -m train.data import my_pictures --out data/mine --size 256 --held-out 0.05
  python -m train.data import my_batch --out data/made --strict
FOLDER: metadata.csv, .jsonl or .parquet (file_name, text) in it or below, NAME.txt beside NAME.png, or what
runtime.batch wrote. DIR gets shards of pictures, dataset.json, skipped.jsonl (pictures that cannot be read) and
unmatched.jsonl (pictures without a caption, rows without a picture)."""
UNMATCHED = "unmatched.jsonl"
MOST_SIZE = 4096  # a shard of a thousand larger pictures would not fit into memory


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.data", __doc__, EXAMPLES, json=False)
    commands = made.add_subparsers(dest="command", required=True)
    prepare = subcommand(commands, "prepare", "the sticker set, from pinned npm packages", EXAMPLES)
    prepare.add_argument("--limit", type=whole(0), default=0, help="at most this many pictures, spread over the set")
    prepare.add_argument(
        "--compositions",
        type=whole(0),
        default=5000,
        metavar="N",
        help="pictures composed of the art, so that words combine (default 5000): colours, counts, two things",
    )
    imported = subcommand(commands, "import", "a folder of your own captioned pictures", EXAMPLES)
    imported.add_argument("folder", type=Path, metavar="FOLDER")
    imported.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="of the pictures, held out for evaluation (0: none; default: those in folders test/ or validation/ "
        "beside train/, else 0.1): whole captions where there are enough, else single pictures",
    )
    imported.add_argument(
        "--strict",
        action="store_true",
        help="write nothing where a picture has no caption or cannot be read, or a row no picture",
    )
    world = subcommand(commands, "world", "the sticker world: drawn without end, a caption has many pictures", EXAMPLES)
    world.add_argument("--portraits", type=whole(1), default=60_000, metavar="N", help="different ones (default 60000)")
    world.add_argument("--seed", type=int, default=0, help="which portraits (default 0)")
    for command in (prepare, imported):
        command.add_argument("--size", type=whole(8, MOST_SIZE), default=128, help="side in pixels (default 128)")
    for command in (prepare, imported, world):
        command.add_argument("--out", type=Path, required=True, metavar="DIR")
    return made


def work(args: argparse.Namespace) -> None:
    """Write the data set and print what it holds."""
    check_folder(args.out)
    if args.command == "world":
        made = _world(args)
        said = f"{made['things']} things, {made['art']} drawings, {made['portraits']} portraits"
        print_result(json.dumps(made) if args.json else f"{args.out}: {said}")
        return
    summary = _prepare(args) if args.command == "prepare" else _import(args)
    print_result(json.dumps(summary) if args.json else f"{args.out}: {_told(summary)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
