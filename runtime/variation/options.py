"""--variation and --plain, for every command that draws prompts."""

from __future__ import annotations

import argparse

from runtime.variation.choice import NONE, Choice, read_choice


def add_variation(parser: argparse.ArgumentParser) -> None:
    """Adds --variation and --plain."""
    parser.add_argument(
        "--variation",
        action="append",
        metavar="auto|none|PROPERTY=WORD",
        help="auto (the default): the seed draws words for what a prompt leaves open, where the bundle has a table of "
        "them; facing=left chooses one, and may be given several times",
    )
    parser.add_argument("--plain", action="store_true", help="--variation none: draw prompts as they are typed")


def variation_of(args: argparse.Namespace) -> Choice:
    """What --variation and --plain ask for. Raises ValueError."""
    if args.plain and args.variation not in (None, [NONE]):
        raise ValueError(f"--plain is --variation none: leave it or --variation {args.variation[0]} out")
    return None if args.plain else read_choice(args.variation or [])
