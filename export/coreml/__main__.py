"""`python -m export.coreml CHECKPOINT --out DIR`: Core ML packages for Apple's loaders, verified anywhere.

Without a Mac a reference evaluator (export.mil) computes the packages' programs; the packages are refused when their
pictures differ from PyTorch's. On macOS Core ML itself predicts as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from export.checks.report import line, table
from export.command import add_export_options, only_planned
from export.coreml.options import ATTENTIONS, COMPUTE_UNITS, TARGETS, Options
from export.coreml.palettize import NBITS
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import check_free
from runtime.manifest import MARKER

EXAMPLES = """examples:
  python -m export.coreml sticker-128 --out out/sticker-coreml --quantize-nbits 6
  python -m export.coreml path/to/checkpoint --out out/ane --attention-implementation SPLIT_EINSUM
  python -m export.coreml path/to/checkpoint --out out/int8 --quantize-activations --min-deployment-target iOS17
  python -m export.coreml path/to/checkpoint --out out/swift --chunk-unet --bundle-resources-for-swift-cli
  python -m export.coreml path/to/checkpoint --out out/swift --quantize-nbits 4 --dry-run"""


def parser() -> Parser:
    """The command line; its options have the names that Apple's converter uses."""
    made = command_parser("export.coreml", __doc__, EXAMPLES)
    add_export_options(made, "the packages")
    made.add_argument("--quantize-nbits", type=int, choices=NBITS, help="palettize weights; default: fp16")
    made.add_argument(
        "--quantize-activations",
        action="store_true",
        help="int8 weights and activations in the U-Net (iOS17 or later); 8-bit weights elsewhere",
    )
    made.add_argument(
        "--attention-implementation",
        choices=ATTENTIONS,
        default="ORIGINAL",
        help="ORIGINAL for the GPU; SPLIT_EINSUM for the Neural Engine, _V2 with queries in chunks for large pictures",
    )
    made.add_argument("--compute-unit", choices=COMPUTE_UNITS, default="ALL", help="for predictions on macOS")
    made.add_argument("--min-deployment-target", choices=TARGETS, default="iOS16")
    made.add_argument("--chunk-unet", action="store_true", help="also write the U-Net in two halves")
    made.add_argument(
        "--bundle-resources-for-swift-cli",
        action="store_true",
        help="also write Resources/ for Apple's Swift package",
    )
    made.add_argument(
        "--check-output-correctness",
        action="store_true",
        help="also report the comparison on a device, even when it was not run",
    )
    made.add_argument(
        "--min-psnr-db",
        type=float,
        metavar="DB",
        help="least PSNR of a picture; default 35, palettized 28, 20, 12, int8 28",
    )
    return made


def work(args: argparse.Namespace) -> None:
    """Export and print the report, or with --dry-run the plan."""
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    check_free(args.out, MARKER, args.overwrite)
    if only_planned(args, "coreml", options.precision, options.copies):
        return
    # Only now: PyTorch and diffusers take seconds to import, and most refusals need neither.
    from export.checks.weights import preflight
    from export.coreml.export import export_coreml
    from export.source import open_folder

    source = open_folder(args.checkpoint, args.prompts, args.variant)
    preflight(source, options.precision)
    facts = export_coreml(source, args.out, options)
    print_result(json.dumps(facts, indent=2) if args.json else shown(facts, args))


def shown(facts: dict[str, Any], args: argparse.Namespace) -> str:
    """The report for a reader."""
    rows = [table(facts)]
    if args.check_output_correctness:
        rows.append(line("on device", facts["real_prediction"]))
    if "compile" in facts:
        how = facts["compile"]
        rows.append(line("compiled", how) + ("" if how["status"] == "passed" else f": cd {args.out}; {how['command']}"))
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
