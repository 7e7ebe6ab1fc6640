"""`python -m train.evaluate CHECKPOINT|BUNDLE`: figures of a student beside its teacher, and contact sheets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.command import Parser, command_parser, print_result, run_command, whole
from train.evaluate.distributions import report
from train.evaluate.evaluation import WITHIN, table
from train.evaluate.feature_sets import FEATURE_SETS
from train.evaluate.run import evaluate

EXAMPLES = """examples:
  python -m train.evaluate sticker-128 --data data/stickers
  python -m train.evaluate sticker-128 --data data/stickers --n 64 --compare compare.png --out figures.json
  python -m train.evaluate sticker-128 --sheet-only --sheet sheet.png
  python -m train.evaluate sticker-128 --data data/world --quick --sheet sheet.webp
With a folder of `train.data world` the figures compare distributions: for each of 100 prompts, or those of --prompts,
pictures of the data, of the teacher and of the student stand beside one another."""


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.evaluate", __doc__, EXAMPLES)
    add = made.add_argument
    add("subject", metavar="CHECKPOINT|BUNDLE", help="a student's pipeline folder, .safetensors file, bundle, or name")
    add("--teacher", default="sticker-128-teacher", help="its teacher's pipeline folder or name")
    add("--data", type=Path, default=Path("data/stickers"), help="folder made by train.data")
    add("--n", type=whole(2), help="pictures per split (default 500), or of a set of a world (2,000)")
    add("--steps", type=int, nargs="+", help="the student's numbers of steps (default 1 2 4, of a world 1)")
    add("--teacher-steps", type=int, help="the teacher's number of steps (default 50, of a world 20, with --quick 10)")
    add("--guidance", type=float, default=2.0, help="of the teacher")
    add(
        "--within",
        type=int,
        default=WITHIN,
        help="prompts per split, 8 seeds each, for diversity (default 16, 0: none)",
    )
    add("--features", choices=FEATURE_SETS, default="lite0", help="network of the figures (default lite0)")
    add("--features-path", default="facebook/dinov2-small", metavar="FOLDER", help="of --features dinov2")
    add("--allow-discriminator-features", action="store_true", help="even if the discriminator used the same")
    add("--text-embedder", choices=("minilm", "words"), default="minilm", help="of the alignment; words: no download")
    add("--inception", type=Path, metavar="FILE", help="TorchScript Inception (inception-2015-12-05.pt): FID as well")
    add("--clip", type=Path, metavar="FOLDER", help="a transformers CLIPModel: CLIP score as well")
    add("--quick", action="store_true", help="of a world: 32 prompts of 8 pictures, in three minutes on two cores")
    add("--plain", action="store_true", help="of a world: draw prompts as they are, not completed by the seed")
    add("--seed", type=int, default=0, help="of a world: of its prompts and all draws (default 0)")
    add("--sheet", type=Path, metavar="PNG", help="also write pictures for up to 32 prompts")
    add("--prompts", type=Path, metavar="FILE", help="of the sheets, of a world also of the figures, one per line")
    add("--compare", type=Path, metavar="PNG", help="also write teacher and student side by side")
    add("--sheet-only", action="store_true", help="no figures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda (default: cuda if any)")
    add("--out", type=Path, metavar="FILE", help="also write the figures there (JSON)")
    return made


def work(args: argparse.Namespace) -> None:
    """Draw, measure and print the figures; with --sheet-only there are none."""
    figures = evaluate(args)
    if figures is not None:
        readable = report.table if "intervals" in figures else table
        print_result(json.dumps(figures) if args.json else readable(figures))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
