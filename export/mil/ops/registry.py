"""The tables of the Model Intermediate Language that the evaluator reads: types, and operations by name.

A function computes an operation from the operation's own parameter names: numbers come in as tensors, texts as str,
tuples as lists. Floats come in as fp32 whatever the program stores, and the caller rounds results to the declared
type; an `exact` operation only moves values, and takes and returns them as stored. A parameter `opset` receives
the opset's number (5 for iOS15 to 9 for iOS26). NotImplementedError means that a variant is not supported.
Source: MIL.proto; coremltools' reference of MIL operations, iOS15 to iOS18.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
Number = Tensor | float  # a tensor of rank 0, or the default of a parameter that the program leaves out
OPSET = "opset"


@dataclass(frozen=True)
class DataType:
    """An element type: MIL.proto's name, its numpy and PyTorch types, and its bits in a file."""

    name: str
    numpy: Any
    torch: torch.dtype
    bits: int

    @property
    def is_float(self) -> bool:
        """Whether fp16 or fp32 (or fp64)."""
        return self.torch.is_floating_point


# PyTorch supports few operations on the wider unsigned types: they are held in the next wider signed one.
DTYPES: dict[int, DataType] = {
    1: DataType("bool", np.bool_, torch.bool, 8),
    10: DataType("fp16", np.float16, torch.float16, 16),
    11: DataType("fp32", np.float32, torch.float32, 32),
    12: DataType("fp64", np.float64, torch.float64, 64),
    21: DataType("int8", np.int8, torch.int8, 8),
    22: DataType("int16", np.int16, torch.int16, 16),
    23: DataType("int32", np.int32, torch.int32, 32),
    24: DataType("int64", np.int64, torch.int64, 64),
    25: DataType("int4", np.int8, torch.int8, 4),
    31: DataType("uint8", np.uint8, torch.uint8, 8),
    32: DataType("uint16", np.uint16, torch.int32, 16),
    33: DataType("uint32", np.uint32, torch.int64, 32),
    35: DataType("uint4", np.uint8, torch.uint8, 4),
    36: DataType("uint2", np.uint8, torch.uint8, 2),
    37: DataType("uint1", np.uint8, torch.uint8, 1),
    38: DataType("uint6", np.uint8, torch.uint8, 6),
    39: DataType("uint3", np.uint8, torch.uint8, 3),
}
STRING = 2
BY_NAME = {kind.name: kind for kind in DTYPES.values()}


@dataclass(frozen=True)
class Operation:
    """A known operation; `ambiguous` says whether the reference leaves the result undefined for given arguments."""

    function: Callable[..., Any]
    exact: bool = False
    ambiguous: Callable[..., bool] | None = None

    @cached_property
    def parameters(self) -> Mapping[str, bool]:
        """Parameter -> whether it is required."""
        found = inspect.signature(self.function).parameters.values()
        return {item.name: item.default is item.empty for item in found}


OPERATIONS: dict[str, Operation] = {}
CONSTANTS: dict[str, Operation] = {}  # constexpr operations: stored weights to the values that they represent


def operation(
    name: str = "", exact: bool = False, ambiguous: Callable[..., bool] | None = None
) -> Callable[[Function], Function]:
    """Decorator that registers a function in the table of its kind, by default under its own name."""

    def enter(function: Function) -> Function:
        key = name or function.__name__
        table = CONSTANTS if key.startswith("constexpr_") else OPERATIONS
        table[key] = Operation(function, exact, ambiguous)
        return function

    return enter


def ints(values: Tensor) -> list[int]:
    """A vector or a single number as Python integers."""
    return [int(item) for item in values.reshape(-1).tolist()]


def floats_only(*values: Tensor) -> None:
    """Refuse integers where the reference does not define the result."""
    if not all(value.is_floating_point() for value in values):
        raise NotImplementedError("integers")
