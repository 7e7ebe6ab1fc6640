"""A reference evaluator of Core ML programs: reads a saved .mlpackage and computes its outputs anywhere.

It replaces Apple's frameworks where there are none: program and weights are read from the files that a
phone would read, compressed weights are expanded, and every result is rounded to the type that the program
declares. fp16 means: operands in fp16, the operation in fp32, the result rounded to fp16, or to infinity if it is too
large; fp16 intermediates within an operation on a device are not imitated. An operation or variant that is not known
is an error that names it, never a guess. `export.mil.Program(path).run(inputs)` does the same from Python.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from export.mil.describe import describe, text
from export.mil.evaluate import report, warnings_of
from export.mil.package import read_package
from export.mil.program import Program
from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from runtime.files import check_writable

MIN_PSNR_DB = 35.0  # as Apple's converter requires

EXAMPLES = """examples:
  python -m export.mil Unet.mlpackage --describe
  python -m export.mil Unet.mlpackage --inputs x.npz --out y.npz
  python -m export.mil Unet.mlpackage --inputs x.npz --compare phone.npz --min-psnr-db 40
  python -m export.mil Unet.mlpackage --seed 1 --trace '*attn2*' --intermediates values.npz
The file of --compare may hold any values of the program, not only outputs: the first that differs is named."""


def parser() -> Parser:
    """The command line."""
    made = command_parser("export.mil", __doc__, EXAMPLES)
    made.add_argument("package", type=Path, help="an .mlpackage of an ML program")
    made.add_argument("--describe", action="store_true", help="print what it contains and whether it would run")
    made.add_argument("--inputs", type=Path, metavar="X.npz", help="an array per input; default: random ones")
    made.add_argument("--seed", type=int, default=0, help="of the random inputs")
    made.add_argument("--function", help="another function than the default one")
    made.add_argument("--out", type=Path, metavar="Y.npz", help="write the outputs there")
    made.add_argument(
        "--compare", type=Path, metavar="Y.npz", help="exit code 1 if the outputs differ too much from these"
    )
    made.add_argument(
        "--min-psnr-db", type=float, default=MIN_PSNR_DB, help=f"least PSNR of --compare, default {MIN_PSNR_DB:g}"
    )
    made.add_argument(
        "--trace", action="append", default=[], metavar="NAME", help="also values with that name or pattern; repeatable"
    )
    made.add_argument(
        "--intermediates", type=Path, metavar="V.npz", help="write the values of --trace there; without it, all floats"
    )
    return made


def work(args: argparse.Namespace) -> int:
    """Evaluate, compare and print the report; 1 when a value differs too much."""
    if args.describe:
        facts = describe(read_package(args.package, args.function))
        print_result(json.dumps(facts, indent=2) if args.json else text(facts))
        return 0
    if args.compare and not args.inputs:
        raise UserError("--compare needs --inputs: give the inputs from which the other values were computed")
    for path in filter(None, (args.out, args.intermediates)):
        check_writable(path)
    program = Program(args.package, args.function)
    found, words, passed = report(program, args)
    if not args.inputs:
        tell(f"note: random inputs, seed {args.seed}; give real ones with --inputs")
    for note in warnings_of(program):
        tell(f"warning: {note}")
    print_result(json.dumps(found, indent=2) if args.json else words)
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
