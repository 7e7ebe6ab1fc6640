"""`python -m export.openvino CHECKPOINT --out DIR`: OpenVINO IR that OpenVINO GenAI's pipelines open as it is.

Written once its pictures are PyTorch's: module by module, and drawn by GenAI itself.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields

from export.checks.report import line, table
from export.checks.weights import preflight
from export.command import add_export_options, only_planned
from export.openvino.export import STORED, Options, export_openvino
from export.source import open_source
from runtime.files import check_free
from runtime.manifest import MARKER
from train.errors import run_command

EXAMPLES = """examples:
  python -m export.openvino sticker-128 --out out/sticker-openvino
  python -m export.openvino path/to/checkpoint --out out/fp16 --precision fp16 --json
  python -m export.openvino path/to/checkpoint --out out/int8 --precision int8 --dry-run"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m export.openvino",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_export_options(made, "the models")
    made.add_argument(
        "--precision",
        choices=tuple(STORED),
        default="fp32",
        help="how weights are stored; what is computed in is the device's choice (INFERENCE_PRECISION_HINT)",
    )
    made.add_argument(
        "--min-psnr-db",
        type=float,
        metavar="DB",
        help="least PSNR of a picture; default 50 (fp32), 35 (fp16), 30 (int8)",
    )
    return made


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    check_free(args.out, MARKER, args.overwrite)
    if only_planned(args, "openvino", args.precision):
        return
    source = open_source(args.checkpoint, args.prompts)
    preflight(source, args.precision)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    facts = export_openvino(source, args.out, options)
    rows = [table(facts), line("drawn by GenAI", facts["genai_picture"])]
    print(json.dumps(facts, indent=2) if args.json else "\n".join(rows))


if __name__ == "__main__":
    run_command(main)
