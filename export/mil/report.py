"""Figures on a program's values: what they are, and how far they are from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checks.measure import CAP_DB
from export.mil.program import Program

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Summary:
    """One value: its range and mean over the finite elements, and how many are NaN or infinite."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float | None
    max: float | None
    mean: float | None
    nan: int
    inf: int

    @classmethod
    def of(cls, name: str, array: Array) -> Summary:
        """The figures of an array of any type."""
        wide = np.asarray(array, np.float64)
        sound = wide[np.isfinite(wide)]
        low, high, mean = (float(f(sound)) if sound.size else None for f in (np.min, np.max, np.mean))
        nan, inf = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
        return cls(name, str(array.dtype), array.shape, low, high, mean, nan, inf)

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True)
class Difference:
    """One value against another: the largest difference, PSNR (peak: the other's largest magnitude), the verdict."""

    name: str
    operation: str
    max_abs: float | None
    psnr_db: float | None
    passed: bool
    why: str = ""


def compare(
    program: Program, found: Mapping[str, Array], others: Mapping[str, Array], least: float
) -> list[Difference]:
    """Each value that both contain, in the program's order; a PSNR below `least` dB fails."""
    order = [port.name for port in program.inputs] + list(program.values)
    names = sorted(others, key=lambda name: order.index(name) if name in order else len(order))
    return [difference(program, name, found[name], others[name], least) for name in names]


def difference(program: Program, name: str, ours: Array, theirs: Array, least: float) -> Difference:
    """How far one value is from another; a different shape, or an element finite in only one, fails."""
    kind = program.types.get(name, "input")
    if ours.shape != theirs.shape:
        return Difference(name, kind, None, None, False, f"shape {ours.shape}, the file has {theirs.shape}")
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not (np.isfinite(a) & np.isfinite(b) | same).all():
        return Difference(name, kind, None, None, False, "not finite where the other is")
    apart = np.where(same, 0.0, a - b)
    peak = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    noise = float(np.sqrt(np.mean(apart**2))) if apart.size else 0.0
    psnr = CAP_DB if noise == 0 else min(CAP_DB, 20 * math.log10(max(peak, 1e-30) / noise))
    passed = psnr >= least
    return Difference(name, kind, float(np.abs(apart).max(initial=0.0)), psnr, passed, "" if passed else "too far")


def summaries_text(rows: list[Summary], seconds: float) -> str:
    """A table of values, and how long the run took."""
    table: list[tuple[str, ...]] = [("name", "dtype", "shape", "min", "max", "mean", "NaN", "inf")]
    for row in rows:
        shape = "x".join(map(str, row.shape)) or "-"
        figures = [number(value) for value in (row.min, row.max, row.mean)]
        table.append((row.name, row.dtype, shape, *figures, str(row.nan), str(row.inf)))
    return f"{aligned(table)}\n{seconds:.2f} s"


def differences_text(rows: list[Difference], least: float) -> str:
    """A table of comparisons, and the first value that differs too much."""
    table: list[tuple[str, ...]] = [("name", "operation", "max_abs", "psnr_db", "")]
    for row in rows:
        figures = [number(row.max_abs), "-" if row.psnr_db is None else f"{row.psnr_db:.2f}"]
        table.append((row.name, row.operation, *figures, "passed" if row.passed else f"failed: {row.why}"))
    failed = [row for row in rows if not row.passed]
    end = f"first below {least:g} dB: {failed[0].name} ({failed[0].operation})" if failed else f"all above {least:g} dB"
    return f"{aligned(table)}\n{end}"


def number(value: float | None) -> str:
    """Five digits, or a dash."""
    return "-" if value is None else f"{value:.5g}"


def aligned(table: list[tuple[str, ...]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(row.rstrip() for row in rows)
