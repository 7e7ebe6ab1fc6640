"""`python -m train.data prepare|import`: captioned pictures to WebDataset shards with a held-out split.

The sticker set is joined from pinned packages; `import` takes a user's own folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.data.folder import folder_sources
from train.data.split import split_pictures
from train.data.writer import write_dataset
from train.errors import run_command
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


def _import(args: argparse.Namespace) -> dict[str, object]:
    split = split_pictures(folder_sources(args.folder), args.held_out)
    return write_dataset(split.members, args.out, args.size, {"folder": args.folder.name, "split": split.how})


def _spread(members: Sequence[Source], limit: int) -> list[Source]:
    """`limit` sources spread evenly over the sorted list."""
    step = max(1.0, len(members) / limit)
    return [members[int(index * step)] for index in range(min(limit, len(members)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m train.data prepare --out data/stickers\n"
        "  python -m train.data import my_pictures --out data/mine\n"
        "  python -m train.data import my_pictures --out data/mine --size 256 --held-out 0.05",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="the sticker set, from pinned npm packages")
    prepare.add_argument("--limit", type=int, default=0, help="only so many pictures, spread over the set")
    prepare.add_argument(
        "--compositions",
        type=int,
        default=5000,
        metavar="N",
        help="pictures composed of the art, for the words to compose (default 5000): colours, counts, two things",
    )
    imported = commands.add_parser("import", help="a folder of your own captioned pictures")
    imported.add_argument("folder", type=Path, metavar="FOLDER")
    imported.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the pictures, kept from training to be judged by (default 0.1; 0: none): whole captions where there "
        "are enough, else single pictures",
    )
    for command in (prepare, imported):
        command.add_argument("--out", type=Path, required=True, metavar="DIR")
        command.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
        command.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def main(argv: list[str]) -> None:
    args = _parser().parse_args(argv)
    summary = _prepare(args) if args.command == "prepare" else _import(args)
    if args.json:
        print(json.dumps(summary))
        return
    print(f"{args.out}: {summary['pictures']}, split {summary['split']}, {summary['skipped']} skipped (skipped.jsonl)")


if __name__ == "__main__":
    run_command(main)
