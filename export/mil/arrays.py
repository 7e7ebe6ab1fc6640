"""The command line's inputs to a program: arrays of a .npz file, or random ones; and writing arrays to files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.mil.package import default_shapes
from export.mil.plan import Step
from export.mil.program import Program
from runtime.errors import UserError
from runtime.files import whole_file

Array = npt.NDArray[Any]
WHOLE = 100  # integers are drawn from 0..99 unless they index something shorter
PASSING = ("cast", "reshape", "expand_dims", "squeeze", "identity", "transpose")


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a .npz file by name; UserError when it is not one."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise UserError(f"{path} is one .npy array: give a .npz file with a name for each (numpy.savez)")
        with file:
            return dict(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a .npz file: {error}") from error


@contextmanager
def array_writer(path: Path) -> Iterator[Callable[[str, Array], None]]:
    """Yield write(name, array), which adds an entry to a .npz file; the file appears whole when the block ends."""

    def write(name: str, array: Array) -> None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)  # type: ignore[no-untyped-call]

    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        yield write


def random_inputs(program: Program, seed: int) -> dict[str, Array]:
    """Normal numbers, and integers for inputs that are integers or index a table; the same for the same seed."""
    rng = np.random.default_rng(seed)
    shapes, rows = default_shapes(program.source), indexed_rows(program)
    drawn: dict[str, Array] = {}
    for port in program.inputs:
        shape = shapes[port.name]
        if port.name in rows or not port.kind.is_float:
            most = 2 if port.kind.torch == torch.bool else rows.get(port.name, WHOLE)
            drawn[port.name] = rng.integers(0, most, shape).astype(port.kind.numpy)
        else:
            drawn[port.name] = rng.standard_normal(shape).astype(port.kind.numpy)
    return drawn


def indexed_rows(program: Program) -> dict[str, int]:
    """Input -> number of rows of the table that it indexes, for inputs that reach a gather unchanged."""
    origin = {port.name: port.name for port in program.inputs}
    rows: dict[str, int] = {}
    for step in program.steps:
        arguments = dict(step.arguments)
        passed = arguments.get("x")
        if step.type in PASSING and isinstance(passed, str) and passed in origin:
            origin[step.outputs[0].name] = origin[passed]
        found = table_rows(program, step, arguments, origin)
        rows |= {name: min(count, rows.get(name, count)) for name, count in found.items()}
    return rows


def table_rows(program: Program, step: Step, arguments: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, int]:
    """The input that indexes a gather's table, and the table's length."""
    indices = arguments.get("indices")
    if step.type != "gather" or not isinstance(indices, str) or indices not in origin:
        return {}
    axis = int(arguments["axis"].get(False)) if "axis" in arguments else 0
    table = arguments["x"]
    shape = table.port.shape if not isinstance(table, str) else program.port(table).shape
    return {origin[indices]: shape[axis] or 1}
