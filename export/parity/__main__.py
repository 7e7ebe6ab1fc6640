"""`python -m export.parity CHECKPOINT EXPORT...`: one report on how close exports are to their checkpoint.

Every export runs on every engine of this machine, each in its own process: the same token ids and noise,
every module and the whole picture. What this machine cannot run is reported as "not run", with the reason.
Exit code 1 when a comparison failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from export.command import add_checkpoint_options, add_prompts_option, add_room_option
from export.parity.compare import checked, failed, report
from export.parity.table import shown
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import signals_held

EXAMPLES = """examples:
  python -m export.parity sticker-128 out/sticker-onnx out/sticker-coreml out/sticker-openvino
  python -m export.parity path/to/checkpoint out/bundle --json
  python -m export.parity path/to/checkpoint out/*-onnx --strip out/parity.png"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("export.parity", __doc__, EXAMPLES)
    made.add_argument(
        "checkpoint",
        help="a pipeline folder, a .safetensors file, a hub id in the local cache, or a shipped one's name",
    )
    made.add_argument("exports", nargs="+", type=Path, help="ONNX bundles, OpenVINO IR, folders of Core ML packages")
    made.add_argument("--strip", type=Path, metavar="PATH.png", help="also draw the exports' pictures beside PyTorch's")
    add_checkpoint_options(made)
    add_prompts_option(made)
    add_room_option(made)
    return made


def work(args: argparse.Namespace) -> int:
    """Compare and print the report; 1 if a comparison failed."""
    if args.strip:
        checked(args.strip)
    # Signals raise, so that neither an export's folder nor its process outlives this one.
    with signals_held() as held, held.released(), tempfile.TemporaryDirectory(prefix="parity-") as name:
        reports = report(args, Path(name))
    print_result(json.dumps({"exports": reports}, indent=2) if args.json else shown(reports))
    return 1 if any(map(failed, reports)) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
