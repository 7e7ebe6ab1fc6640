"""Palettized weights: each weight is an index of 4, 6 or 8 bits into a table of fp16 values found by k-means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NBITS = (4, 6, 8)
GROUP = 16  # output channels that share a table, where the target allows more than one table per weight
LEAST = 2048  # numbers in a weight; smaller ones stay as they are
ITERATIONS = 40  # of k-means, at most
WEIGHT_INPUTS = {"conv": "weight", "linear": "weight", "gather": "x"}

Array = npt.NDArray[Any]


def palettize(program: Any, nbits: int, target: str) -> None:
    """Replace a coremltools Program's large weights by tables of 2**nbits values and indices, in place.

    There is one table per weight; from iOS18 on one per GROUP of output channels.
    """
    import coremltools.optimize.coreml as cto

    def table(weight: Array) -> tuple[Array, Array]:
        return kmeans(weight, 2**nbits)

    def tables(**options: Any) -> Any:
        return cto.OpPalettizerConfig(mode="custom", lut_function=table, weight_threshold=0, **options)

    whole, grouped = tables(), tables(granularity="per_grouped_channel", group_size=GROUP)
    by_name = {
        layer.name: grouped if target == "iOS18" and layer.in_groups else whole for layer in large_weights(program)
    }
    config = cto.OptimizationConfig(op_name_configs=by_name)
    run_pass("compression::palettize_weights", program, config=config)


@dataclass(frozen=True)
class Layer:
    """An operation of a coremltools Program with a weight that may be stored in fewer bits."""

    operation: Any
    weight: Any

    @property
    def name(self) -> str:
        """The weight's."""
        return str(self.weight.name)

    @property
    def in_groups(self) -> bool:
        """Whether the weight's output channels divide into whole groups."""
        return bool(self.operation.op_type != "gather" and self.weight.shape[0] % GROUP == 0)


def large_weights(program: Any) -> Iterator[Layer]:
    """The layers whose weights are large.

    The first and last convolution that see more than one position, and the time embedding, are left out: the
    picture shows their errors, and they are small.
    """
    operations = list(program.functions["main"].operations)
    spatial = [op for op in operations if op.op_type == "conv" and max(op.weight.shape[2:]) > 1]
    spared = {op.weight.name for op in (*spatial[:1], *spatial[-1:])}
    for op in operations:
        weight = op.inputs.get(WEIGHT_INPUTS.get(op.op_type, ""))
        if weight is None or weight.op is None or weight.op.op_type != "const" or weight.val.size < LEAST:
            continue
        if weight.name not in spared and "time_embedding" not in weight.name:
            yield Layer(op, weight)


def run_pass(name: str, program: Any, **options: Any) -> None:
    """Run one of coremltools' graph passes."""
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    found = PASS_REGISTRY[name]
    found.set_options([PassOption(key, value) for key, value in options.items()])
    found(program)


def recipe(nbits: int, target: str) -> dict[str, Any]:
    """What `palettize` does, in words for the report."""
    tables = f"one for each {GROUP} output channels" if target == "iOS18" else "one per weight"
    spared = ["first and last convolution", "time embedding", f"weights of fewer than {LEAST} numbers"]
    return {"weights": f"k-means, {nbits} bits", "tables": tables, "fp16": spared}


def kmeans(weight: Array, count: int) -> tuple[Array, Array]:
    """(table of `count` values, uint8 index of each weight): k-means in one dimension.

    It runs on the distinct values and their counts: fp16 has 65,536 at most.
    """
    bits = weight.astype(np.float16).reshape(-1).view(np.uint16)
    numbers = np.bincount(bits, minlength=2**16)
    present = np.flatnonzero(numbers).astype(np.uint16)
    values = present.view(np.float16).astype(np.float64)
    order = np.argsort(values)
    points, counts = values[order], numbers[present[order]]
    centres = points if len(points) <= count else lloyd(points, counts, companded(points, counts, count))
    table = np.zeros(count, weight.dtype)
    table[: len(centres)] = centres
    codes = np.zeros(2**16, np.uint8)
    codes[present[order]] = np.searchsorted(middles(centres), points)
    return table, codes[bits]


def companded(points: Array, counts: Array, count: int) -> Array:
    """`count` starting centres, as dense as the cube root of the points' density (Panter and Dite 1951)."""
    gaps = np.gradient(points)
    mass = np.cumsum(np.cbrt(counts) * np.cbrt(gaps) ** 2)
    ranks = (np.arange(count) + 0.5) / count * mass[-1]
    return np.asarray(np.interp(ranks, mass, points))


def lloyd(points: Array, counts: Array, centres: Array) -> Array:
    """Move each centre (sorted) to the mean of its points (sorted) until none moves."""
    number = np.concatenate([[0.0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(counts * points)])
    for _ in range(ITERATIONS):
        edges = np.concatenate([[0], np.searchsorted(points, middles(centres)), [len(points)]])
        weights, sums = np.diff(number[edges]), np.diff(total[edges])
        moved = np.sort(np.where(weights > 0, sums / np.maximum(weights, 1), centres))
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def middles(centres: Array) -> Array:
    """Where one centre's points (sorted) end and the next one's begin."""
    return np.asarray((centres[1:] + centres[:-1]) / 2)
