"""`python -m export.openvino CHECKPOINT --out DIR`: OpenVINO IR that OpenVINO GenAI's pipelines open unchanged.

It is written only if it matches PyTorch module by module, and in a picture drawn by GenAI itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields

from export.checks.report import line, table
from export.command import add_export_options, only_planned
from export.openvino.options import STORED, Options
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import check_free
from runtime.manifest import MARKER

EXAMPLES = """examples:
  python -m export.openvino sticker-128 --out out/sticker-openvino
  python -m export.openvino path/to/checkpoint --out out/fp16 --precision fp16 --json
  python -m export.openvino path/to/checkpoint --out out/int8 --precision int8 --dry-run"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("export.openvino", __doc__, EXAMPLES)
    add_export_options(made, "the models")
    made.add_argument(
        "--precision",
        choices=tuple(STORED),
        default="fp32",
        help="how weights are stored; the device chooses what it computes in (INFERENCE_PRECISION_HINT)",
    )
    made.add_argument(
        "--min-psnr-db",
        type=float,
        metavar="DB",
        help="least PSNR of a picture; default 50 (fp32), 35 (fp16), 30 (int8)",
    )
    return made


def work(args: argparse.Namespace) -> None:
    """Export and print the report, or with --dry-run the plan."""
    check_free(args.out, MARKER, args.overwrite)
    if only_planned(args, "openvino", args.precision):
        return
    # Only now: PyTorch and diffusers take seconds to import, and most refusals need neither.
    from export.checks.weights import preflight
    from export.openvino.export import export_openvino
    from export.source import open_folder

    source = open_folder(args.checkpoint, args.prompts, args.variant)
    preflight(source, args.precision)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    facts = export_openvino(source, args.out, options)
    rows = [table(facts), line("drawn by GenAI", facts["genai_picture"])]
    print_result(json.dumps(facts, indent=2) if args.json else "\n".join(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
