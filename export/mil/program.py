"""The evaluator itself: a saved ML program as a function of numpy arrays."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.mil.package import MilError, Port, read_package
from export.mil.plan import Step, make_plan
from export.mil.values import Constant, widened

Array = npt.NDArray[Any]
Observer = Callable[[str, Tensor], None]
KEPT_BYTES = 256 * 2**20  # constants that take at most this in total, as fp32, stay in memory between runs
SMALL_BYTES = 64 * 2**10  # size of a constant that always stays


class Program:
    """One function of a package, ready to run.

    inputs, outputs: its Ports (name, shape, type). block: MIL.proto's. values: Port of every value that a run
    computes, by name, in order. After a run: overflows, the names of values in which finite operands gave an infinity
    or NaN, in order; ambiguous, those whose result the reference leaves undefined (ties): the first was taken.
    """

    def __init__(self, package: str | Path, function: str | None = None, kept_bytes: int = KEPT_BYTES) -> None:
        """Raises MilError when the folder is not an ML program or contains something that is not supported.

        function: one other than the default. kept_bytes: below it all weights stay in memory, expanded to fp32;
        above it each is expanded when it is used.
        """
        self.source = read_package(package, function)
        self.package, self.block = self.source.path, self.source.block
        self.inputs = self.source.inputs
        plan = make_plan(self.source)
        self.steps, self.constants = plan.steps, plan.constants
        keep_constants(self.steps, kept_bytes)
        self.values = {port.name: port for step in self.steps for port in step.outputs}
        self.types = {port.name: step.type for step in self.steps for port in step.outputs}
        self.outputs = [self.port(name) for name in self.block.outputs]
        self.overflows: list[str] = []
        self.ambiguous: list[str] = []

    def run(
        self,
        inputs: Mapping[str, Array],
        keep: Collection[str] = (),
        observe: Observer | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> dict[str, Array]:
        """The outputs by name for inputs by name; both as numpy arrays of the program's own types.

        keep: names of further values (of operations, inputs or weights) to return as well. observe(name, tensor) is
        called with every input of float type and with every float result (fp16 or fp32, as rounded; not to be
        modified), in the program's order: for calibration, or to write values one by one. advance(1) is called
        after each operation. A value is freed after its last use.
        Raises MilError when an input is missing, unknown, or of another shape, or when an operation has a form that
        is not supported.
        """
        self.overflows, self.ambiguous = [], []
        self.check_names(keep)
        values = self.fed(inputs)
        kept = {name: values[name] for name in keep if name in values}
        tell(observe, self.inputs, values)
        with torch.no_grad():
            for step in self.steps:
                self.step(step, values)
                kept |= {port.name: values[port.name] for port in step.outputs if port.name in keep}
                tell(observe, step.outputs, values)
                for name in step.spent:
                    values.pop(name, None)
                if advance:
                    advance(1)
            names = dict.fromkeys([*self.block.outputs, *keep])
            return {name: self.array(name, values | kept) for name in names}

    def step(self, step: Step, values: dict[str, Tensor]) -> None:
        """Compute one operation and store its outputs, rounded to their types."""
        name = step.outputs[0].name
        arguments = {key: resolved(item, values, not step.operation.exact) for key, item in step.arguments}
        try:
            if step.operation.ambiguous and step.operation.ambiguous(**arguments):
                self.ambiguous.append(name)
            results = step.operation.function(**arguments)
        except NotImplementedError as error:
            where = f"{step.type} of {self.package.name} ({name})"
            raise MilError(f"the evaluator does not know this form of {where}: {error}") from error
        except (RuntimeError, ValueError, IndexError, KeyError) as error:  # PyTorch's exceptions for shapes and types
            raise MilError(f"{self.package.name}: {step.type} {name} cannot be computed: {error}") from error
        found = list(results) if isinstance(results, list | tuple) else [results]
        if len(found) != len(step.outputs):
            raise MilError(f"{self.package.name}: {step.type} {name} has {len(step.outputs)} outputs, not {len(found)}")
        for port, result in zip(step.outputs, found, strict=True):
            value = values[port.name] = rounded(step, port, result)
            if not step.operation.exact and not finite(value) and all_finite(arguments):
                self.overflows.append(port.name)

    def fed(self, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        """The inputs as tensors of the declared types."""
        expected = {port.name for port in self.inputs}
        if set(inputs) != expected:
            raise MilError(f"{self.package.name} takes {sorted(expected)}, not {sorted(inputs)}")
        tensors = {}
        for port in self.inputs:
            given = np.asarray(inputs[port.name])
            if not port.takes(given.shape):
                raise MilError(f"{self.package.name}: {port.name} must be {port.shape}, not {given.shape}")
            with np.errstate(over="ignore", invalid="ignore"):
                array = given.astype(port.kind.numpy)
            if not port.kind.is_float and not np.array_equal(array, given):
                raise MilError(f"{self.package.name}: {port.name} must be {port.kind.name}, and its values are not")
            tensors[port.name] = torch.from_numpy(np.ascontiguousarray(array)).to(port.kind.torch).reshape(given.shape)
            if np.issubdtype(given.dtype, np.floating) and np.isfinite(given).all() and not finite(tensors[port.name]):
                self.overflows.append(port.name)
        return tensors

    def port(self, name: str) -> Port:
        """The Port of any value: an operation's, an input's, or a weight's."""
        for port in self.inputs:
            if port.name == name:
                return port
        constant = self.constants.get(name)
        if constant is not None and constant.port is not None:
            return constant.port
        if name not in self.values:
            raise MilError(f"{self.package.name}: no operation gives {name}")
        return self.values[name]

    def check_names(self, names: Collection[str]) -> None:
        """Raise MilError unless each is a value of the program; the text offers similar ones."""
        weights = {name for name, constant in self.constants.items() if constant.port is not None}
        known = self.values.keys() | {port.name for port in self.inputs} | weights
        for name in names:
            if name not in known:
                close = [item for item in known if name in item][:3] or difflib.get_close_matches(name, known, 3, 0.4)
                hint = f"; there are {', '.join(sorted(close))}" if close else ""
                raise MilError(f"{self.package.name} has no value {name}{hint}")

    def array(self, name: str, values: Mapping[str, Tensor]) -> Array:
        """A value as numpy holds its declared type."""
        value = values[name] if name in values else self.constants[name].get(False)
        array: Array = value.numpy().astype(self.port(name).kind.numpy, copy=False)
        return array


def tell(observe: Observer | None, ports: list[Port], values: Mapping[str, Tensor]) -> None:
    """Call the observer with those values that are floats."""
    for port in ports if observe else ():
        if port.kind.is_float:
            observe(port.name, values[port.name])  # type: ignore[misc]


def keep_constants(steps: list[Step], kept_bytes: int) -> None:
    """Set `keep` for all constants when they fit, for the small ones otherwise."""
    found: dict[int, Constant] = {}
    for step in steps:
        for _, one in step.arguments:
            items = one if isinstance(one, list) else [one]
            found |= {id(item): item for item in items if isinstance(item, Constant)}
    everything = sum(item.expanded_bytes for item in found.values()) <= kept_bytes
    for item in found.values():
        item.keep = everything or item.expanded_bytes <= SMALL_BYTES


def resolved(item: Any, values: Mapping[str, Tensor], wide: bool) -> Any:
    """An argument's value; wide: fp16 as fp32."""
    if isinstance(item, list):
        return [resolved(one, values, wide) for one in item]
    if isinstance(item, Constant):
        return item.get(wide)
    value = values[item]
    return widened(value) if wide else value


def rounded(step: Step, port: Port, value: Tensor) -> Tensor:
    """A result in the type and shape that the operation declares."""
    if not port.takes(tuple(value.shape)):
        raise MilError(f"{step.type} {port.name}: shape {tuple(value.shape)}, declared {port.shape}")
    return value.to(port.kind.torch)


def finite(value: Tensor) -> bool:
    """Whether no element is an infinity or NaN."""
    if not value.is_floating_point() or value.numel() == 0:
        return True
    low, high = torch.aminmax(value)
    return math.isfinite(float(low)) and math.isfinite(float(high))


def all_finite(arguments: Mapping[str, Any]) -> bool:
    """Whether no operand holds an infinity or NaN."""
    operands = [one for item in arguments.values() for one in (item if isinstance(item, list) else [item])]
    return all(finite(one) for one in operands if isinstance(one, Tensor))
