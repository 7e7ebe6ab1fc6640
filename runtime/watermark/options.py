"""--watermark and --no-watermark, for every command that draws prompts."""

from __future__ import annotations

import argparse


def add_watermark(parser: argparse.ArgumentParser) -> None:
    """Adds the pair; `args.watermark` is True, False or None, as `Pipeline.run` takes it."""
    parser.add_argument(
        "--watermark",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="an invisible mark that names the bundle; by default in pictures of 512 pixels and larger",
    )
