"""`python -m scripts.world_sheets`: random pictures of the world with their captions, to be looked at."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import whole_file
from train.world.stream import Painter

EXAMPLES = """examples:
  python -m scripts.world_sheets data/world --out out/sheets
  python -m scripts.world_sheets data/world --out out/sheets --count 200 --seed 1"""
SIDE, MARGIN, LINES, COLUMNS, ROWS = 128, 8, 6, 8, 5


def sheet(painter: Painter, numbers: range) -> Image.Image:
    """Pictures in rows of eight, each above its caption."""
    width, height = SIDE + MARGIN, SIDE + MARGIN + LINES * 11
    rows = -(-len(numbers) // COLUMNS)
    made = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(9)
    for place, number in enumerate(numbers):
        x, y = MARGIN + place % COLUMNS * width, MARGIN + place // COLUMNS * height
        scene = painter.numbered(number)
        made.paste(Image.fromarray(painter.pictures([scene])[0]), (x, y))
        pen.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), outline="#dddddd")
        lines = textwrap.wrap(painter.told(scene, number) or "(no caption)", 29)[:LINES]
        pen.multiline_text((x, y + SIDE + 2), "\n".join(lines), fill="black", font=font, spacing=1)
    return made


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.world_sheets", __doc__, EXAMPLES, json=False)
    made.add_argument("data", type=Path, help="folder made by train.data world")
    made.add_argument("--out", type=Path, required=True, metavar="DIR")
    made.add_argument("--count", type=int, default=200, metavar="N", help="pictures (default 200)")
    made.add_argument("--seed", type=int, default=0, help="which (default 0)")
    return made


def work(args: argparse.Namespace) -> None:
    """Write the sheets, and print their names."""
    painter = Painter(args.data, SIDE, args.seed)
    painter.portraits  # noqa: B018  a missing or damaged folder is reported now
    args.out.mkdir(parents=True, exist_ok=True)
    each = COLUMNS * ROWS
    for start in range(0, args.count, each):
        path = args.out / f"sheet-{start // each}.png"
        with whole_file(path) as temporary:
            sheet(painter, range(start, min(start + each, args.count))).save(temporary, "PNG")
        print_result(str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
