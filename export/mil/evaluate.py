"""Evaluate a program, write its values and compare them: what `python -m export.mil` does."""

from __future__ import annotations

import argparse
import fnmatch
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from export.mil.arrays import array_writer, random_inputs, read_arrays
from export.mil.program import Program
from export.mil.report import Summary, compare, differences_text, summaries_text
from train.progress import progress

Array = npt.NDArray[Any]


def traced(program: Program, patterns: list[str]) -> list[str]:
    """The names that match the patterns, in the program's order; UserError when a pattern matches none."""
    names: list[str] = []
    for pattern in patterns:
        found = [name for name in program.values if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            program.check_names([pattern])  # a weight or input by its full name, else an error
            found = [pattern]
        names += [name for name in found if name not in names]
    return names


def evaluate(program: Program, args: argparse.Namespace, inputs: dict[str, Array], keep: list[str]) -> dict[str, Array]:
    """Run with a progress bar; write --intermediates value by value, while each is in memory."""
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
    """Warnings about the run."""
    notes = []
    if program.overflows:
        first = program.overflows[0]
        kind, dtype = program.types.get(first, "input"), program.port(first).kind.name
        notes.append(f"{dtype} overflow first in {kind} {first}; {len(program.overflows)} values in all")
    if program.ambiguous:
        first = program.ambiguous[0]
        notes.append(f"a tie that each device may break its own way, first in {program.types[first]} {first}")
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
