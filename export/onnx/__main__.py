"""`python -m export.onnx CHECKPOINT --out DIR`: an ONNX bundle, written only if its pictures match PyTorch's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from export.checks.gates import MOST_RATIO
from export.checks.report import table
from export.command import add_export_options, only_planned
from export.onnx.options import FUSED, Options
from export.picture_size import several, sizes_of
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from runtime.files import check_free
from runtime.manifest import MANIFEST, PRECISIONS

EXAMPLES = """examples:
  python -m export.onnx sticker-128 --out out/sticker-onnx
  python -m export.onnx path/to/checkpoint --out out/bundle --precision int8 --fused
  python -m export.onnx path/to/checkpoint --out out/bundle --precision int4-weights --dry-run
  python -m export.onnx path/to/checkpoint --out out/bundle --height 512 --width 512 --sizes 768x512,512x768
  python -m export.onnx path/to/checkpoint --out out/bundle --overwrite --json"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("export.onnx", __doc__, EXAMPLES)
    add_export_options(made, "the bundle")
    made.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="int8: computed in 8 bits where the picture allows; int8-weights, int4-weights: only stored smaller",
    )
    made.add_argument(
        "--fold-timestep", action="store_true", help="a U-Net for the one-step timestep only: it draws in one step"
    )
    made.add_argument(
        "--sizes",
        metavar="WIDTHxHEIGHT,...",
        help="other sizes that the graphs also take, such as 768x512,512x768, in multiples of 64",
    )
    made.add_argument("--fused", action="store_true", help=f"also {FUSED}: ids and noise in, pixels out")
    made.add_argument(
        "--budget-db",
        type=float,
        metavar="DB",
        help="PSNR of the mean picture that compressed layers must keep; default 40, 31 for int4-weights",
    )
    made.add_argument(
        "--min-psnr-db",
        type=float,
        metavar="DB",
        help="least PSNR of a picture; default 50 (fp32), 35 (fp16), 30 (int8), 20 (int4-weights)",
    )
    made.add_argument(
        "--max-fd-ratio",
        type=float,
        default=MOST_RATIO,
        metavar="R",
        help=f"largest FD-Lite0 to real pictures, relative to the checkpoint's; default {MOST_RATIO}",
    )
    made.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="shards of real pictures for FD-Lite0; default: the demo's, for a model trained on the same set",
    )
    return made


def work(args: argparse.Namespace) -> None:
    """Export and print the report, or with --dry-run the plan."""
    check_free(args.out, MANIFEST, args.overwrite)
    others = sizes_of(args.sizes) if args.sizes else ()
    if others and args.fused:
        raise UserError(f"--fused: {FUSED} has one size: leave out --sizes, or --fused")
    if only_planned(args, "onnx", args.precision, others=others):
        return
    # Only now: PyTorch and diffusers take seconds to import, and most refusals need neither.
    from export.checks.weights import preflight
    from export.onnx.export import export_onnx
    from export.source import open_folder

    source = replace(open_folder(args.checkpoint, args.prompts, args.variant), sizes=several(args.checkpoint, others))
    preflight(source, args.precision)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    facts = export_onnx(source, args.out, options)
    print_result(json.dumps(facts, indent=2) if args.json else table(facts))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
