"""A reference evaluator of Core ML programs: reads a saved .mlpackage and computes its outputs anywhere.

It stands in for Apple's frameworks where there are none: program and weights are read from the files that a
phone would read, compressed weights are expanded, and every result is rounded to the type that the program
declares. fp16 means: operands in fp16, the operation in fp32, the result rounded to fp16, to infinity where it is too
large; what a device keeps in fp16 within an operation is not imitated. An operation or a form of one that is not known
is an error by name, never a guess. `export.mil.Program(path).run(inputs)` is the same from Python.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from export.mil.arrays import array_writer, random_inputs, read_arrays
from export.mil.describe import describe, text
from export.mil.package import read_package
from export.mil.program import Program
from export.mil.report import Summary, compare, differences_text, summaries_text
from runtime.errors import UserError
from train.errors import run_command
from train.progress import progress

Array = npt.NDArray[Any]
MIN_PSNR_DB = 35.0  # as Apple's converter asks for

EXAMPLES = """examples:
  python -m export.mil Unet.mlpackage --describe
  python -m export.mil Unet.mlpackage --inputs x.npz --out y.npz
  python -m export.mil Unet.mlpackage --inputs x.npz --compare phone.npz --min-psnr-db 40
  python -m export.mil Unet.mlpackage --seed 1 --trace '*attn2*' --intermediates values.npz
The file of --compare may hold any values of the program, not only outputs: the first that differs is named."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m export.mil",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("package", type=Path, help="an .mlpackage of an ML program")
    made.add_argument("--describe", action="store_true", help="say what it holds and whether it would run")
    made.add_argument("--inputs", type=Path, metavar="X.npz", help="an array for each input; default: random ones")
    made.add_argument("--seed", type=int, default=0, help="of the random inputs")
    made.add_argument("--function", help="another function than the default one")
    made.add_argument("--out", type=Path, metavar="Y.npz", help="write the outputs there")
    made.add_argument("--compare", type=Path, metavar="Y.npz", help="values to compare with; exit code 1 when too far")
    made.add_argument(
        "--min-psnr-db", type=float, default=MIN_PSNR_DB, help=f"least PSNR of --compare, default {MIN_PSNR_DB:g}"
    )
    made.add_argument(
        "--trace", action="append", default=[], metavar="NAME", help="also a value of that name or pattern; repeatable"
    )
    made.add_argument(
        "--intermediates", type=Path, metavar="V.npz", help="write the values of --trace there; without it, all floats"
    )
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def traced(program: Program, patterns: list[str]) -> list[str]:
    """The names that the patterns mean, in the program's order; UserError when one means none."""
    names: list[str] = []
    for pattern in patterns:
        found = [name for name in program.values if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            program.check_names([pattern])  # a weight or an input by its whole name, or an error with similar names
            found = [pattern]
        names += [name for name in found if name not in names]
    return names


def evaluate(program: Program, args: argparse.Namespace, inputs: dict[str, Array], keep: list[str]) -> dict[str, Array]:
    """Run with a progress bar; write --intermediates value by value while they are there."""
    chosen = set(keep) if args.trace else None
    with progress(f"evaluate {program.package.name}", len(program.steps)) as advance:
        if args.intermediates is None:
            return program.run(inputs, keep, advance=advance)
        with array_writer(args.intermediates) as write:

            def observe(name: str, value: Tensor) -> None:
                if name not in inputs and (chosen is None or name in chosen):
                    write(name, value.numpy())

            return program.run(inputs, keep, observe, advance)


def warnings_of(program: Program) -> list[str]:
    """What a reader should know of the run."""
    notes = []
    if program.overflows:
        first = program.overflows[0]
        kind, dtype = program.types.get(first, "input"), program.port(first).kind.name
        notes.append(f"{dtype} overflow first in {kind} {first}; {len(program.overflows)} values in all")
    if program.ambiguous:
        first = program.ambiguous[0]
        notes.append(f"a tie that each device breaks as it likes, first in {program.types[first]} {first}")
    return notes


def report(program: Program, args: argparse.Namespace) -> tuple[dict[str, Any], str, bool]:
    """Run and compare: the facts, their text, and whether the comparison passed."""
    inputs = read_arrays(args.inputs) if args.inputs else random_inputs(program, args.seed)
    others = read_arrays(args.compare) if args.compare else {}
    program.check_names(others)
    asked = traced(program, args.trace)
    start = time.perf_counter()
    values = evaluate(program, args, inputs, list(dict.fromkeys([*asked, *others])))
    seconds = time.perf_counter() - start
    outputs = [port.name for port in program.outputs]
    if args.out:
        save(args.out, {name: values[name] for name in outputs})
    rows = [Summary.of(name, values[name]) for name in dict.fromkeys([*outputs, *asked])]
    differences = compare(program, values, others, args.min_psnr_db)
    words = summaries_text(rows, seconds)
    words += "\n" + differences_text(differences, args.min_psnr_db) if others else ""
    facts = {
        "package": str(program.package),
        "inputs": "file" if args.inputs else f"random, seed {args.seed}",
        "outputs": [row.to_json() for row in rows],
        "seconds": round(seconds, 3),
        "overflows": program.overflows,
        "ambiguous": program.ambiguous,
        "compare": [asdict(row) for row in differences],
    }
    return facts, words, all(row.passed for row in differences)


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file whole."""
    with array_writer(path) as write:
        for name, array in arrays.items():
            write(name, np.ascontiguousarray(array))


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if args.describe:
        facts = describe(read_package(args.package, args.function))
        print(json.dumps(facts, indent=2) if args.json else text(facts))
        return
    if args.compare and not args.inputs:
        raise UserError("--compare without --inputs: give the inputs that the other values were computed from")
    program = Program(args.package, args.function)
    if not args.inputs:
        print(f"note: random inputs, seed {args.seed}; give real ones with --inputs", file=sys.stderr)
    found, words, passed = report(program, args)
    for note in warnings_of(program):
        print(f"warning: {note}", file=sys.stderr)
    print(json.dumps(found, indent=2) if args.json else words)
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
