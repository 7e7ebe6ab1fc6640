"""A reference evaluator of Core ML programs: reads a saved .mlpackage and computes its outputs anywhere.

It stands in for Apple's frameworks where there are none: program and weights are read from the files that a
phone would read, palettized weights are looked up, and every result is rounded to the type that the program
declares (fp16: operands in fp16, the operation in fp32, the result rounded to fp16). What an operation means
is written in `export.mil_ops`; an operation that is not there is an error by name, never a guess.
Source: MIL.proto and Model.proto of coremltools; the operations' reference in its documentation.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.mil_ops import CONSTANTS, OPERATIONS
from train.errors import UserError

Array = npt.NDArray[Any]
BLOB_MAGIC = 0xDEADBEEF

# MIL.proto DataType -> numpy; the types below a byte are unpacked to uint8 or int8.
DTYPES: dict[int, Any] = {
    1: np.bool_, 10: np.float16, 11: np.float32, 12: np.float64, 21: np.int8, 22: np.int16, 23: np.int32,
    24: np.int64, 31: np.uint8, 32: np.uint16, 33: np.uint32, 34: np.uint64,
}
SMALL_UINTS = {35: 4, 36: 2, 37: 1, 38: 6, 39: 3}  # DataType -> bits
STRING = 2
TORCH = {
    1: torch.bool, 10: torch.float16, 11: torch.float32, 21: torch.int8, 22: torch.int16, 23: torch.int32,
    31: torch.uint8, 32: torch.int32,  # PyTorch computes nothing with its uint16
}


class MilError(UserError):
    """A package that this evaluator cannot read or an operation that it does not know; the text names it."""


@dataclass(frozen=True)
class Port:
    """An input or output of a program."""

    name: str
    shape: tuple[int, ...]
    dtype: int  # MIL.proto DataType


class Program:
    """The main function of one package; its weights are read once."""

    def __init__(self, package: str | Path) -> None:
        """Raises MilError when the folder is no ML program or holds an operation that is not known."""
        folder = model_folder(Path(package))
        self.package = Path(package)
        self.function = main_function(folder / "model.mlmodel")
        self.block = self.function.block_specializations[self.function.opset]
        self.folder = folder
        self.inputs = [port_of(item) for item in self.function.inputs]
        self.outputs = list(self.block.outputs)
        self.check_known()
        self.constants = self.load_constants()

    def check_known(self) -> None:
        """Raise MilError unless every operation is known."""
        unknown = {op.type for op in self.block.operations} - OPERATIONS.keys() - CONSTANTS.keys() - {"const"}
        if unknown:
            raise MilError(f"{self.package.name}: the evaluator does not know {', '.join(sorted(unknown))}")

    def load_constants(self) -> dict[str, Any]:
        """Values of the const and constexpr operations, by name."""
        values: dict[str, Any] = {}
        for op in self.block.operations:
            if op.type == "const":
                values[op.outputs[0].name] = self.value(op.attributes["val"])
            elif op.type in CONSTANTS:
                parts = {name: self.value(item) for name, item in op.attributes.items() if name != "name"}
                parts |= self.arguments(op, values)
                dense = CONSTANTS[op.type](**parts)
                values[op.outputs[0].name] = rounded(op, 0, dense)
        return values

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, by name, for inputs by name; both as numpy arrays of the program's own types.

        Raises MilError when an input is missing, unknown, or of another shape.
        """
        values: dict[str, Any] = dict(self.fed(inputs))
        last = last_uses(self.block)
        for index, op in enumerate(self.block.operations):
            if op.type in OPERATIONS:
                self.step(op, values)
                for name in last.get(index, ()):
                    values.pop(name, None)
        return {name: values[name].numpy() for name in self.outputs}

    def step(self, op: Any, values: dict[str, Any]) -> None:
        """Compute one operation and note its outputs, rounded to their types."""
        try:
            results = OPERATIONS[op.type](**self.arguments(op, values))
        except (TypeError, NotImplementedError) as error:
            where = f"{op.type} of {self.package.name} ({op.outputs[0].name})"
            raise MilError(f"the evaluator does not know this form of {where}: {error}") from error
        for i, result in enumerate(results if isinstance(results, list | tuple) else [results]):
            values[op.outputs[i].name] = rounded(op, i, result)

    def arguments(self, op: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        """An operation's inputs by parameter name: fp16 as fp32, ready to compute with."""
        found: dict[str, Any] = {}
        for name, argument in op.inputs.items():
            items = [self.bound(binding, values) for binding in argument.arguments]
            found[name] = items if name == "values" or len(items) > 1 else items[0]
        return found

    def bound(self, binding: Any, values: Mapping[str, Any]) -> Any:
        """What one argument refers to: an earlier value, a constant, or a value written in place."""
        if binding.WhichOneof("binding") == "value":
            return widened(self.value(binding.value))
        name = binding.name
        return widened(values[name] if name in values else self.constants[name])

    def fed(self, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        """The inputs as tensors of the declared types."""
        expected = {port.name for port in self.inputs}
        if set(inputs) != expected:
            raise MilError(f"{self.package.name} takes {sorted(expected)}, not {sorted(inputs)}")
        tensors = {}
        for port in self.inputs:
            array = np.ascontiguousarray(inputs[port.name])
            if array.shape != port.shape:
                raise MilError(f"{self.package.name}: {port.name} must be {port.shape}, not {array.shape}")
            tensors[port.name] = torch.from_numpy(array).to(TORCH[port.dtype])
        return tensors

    def value(self, spec: Any) -> Any:
        """A Value of the file: text as str, numbers as a tensor of their shape (uint types as int)."""
        kind = spec.type.tensorType
        shape = tuple(int(dim.constant.size) for dim in kind.dimensions)
        if spec.WhichOneof("value") == "blobFileValue":
            file = self.folder / "weights" / Path(spec.blobFileValue.fileName).name
            data = read_blob(file, spec.blobFileValue)
            return to_tensor(unpack(data, kind.dataType, shape), shape)
        tensor = spec.immediateValue.tensor
        raw = getattr(tensor, tensor.WhichOneof("value")).values
        if kind.dataType == STRING:
            return str(raw[0])
        if isinstance(raw, bytes):
            return to_tensor(unpack(raw, kind.dataType, shape), shape)
        return to_tensor(np.array(list(raw), DTYPES[kind.dataType]), shape)


def model_folder(package: Path) -> Path:
    """The folder of model.mlmodel in a package, by its Manifest.json."""
    try:
        manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        return (package / "Data" / str(entry["path"])).parent
    except (OSError, ValueError, KeyError) as error:
        raise MilError(f"{package} is no Core ML package: {error}") from error


def main_function(path: Path) -> Any:
    """The function "main" of a saved ML program."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it regrets at length that this is no Mac
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    if "main" not in spec.mlProgram.functions:
        raise MilError(f"{path} holds no ML program")
    return spec.mlProgram.functions["main"]


def port_of(item: Any) -> Port:
    """An input as name, shape and type."""
    kind = item.type.tensorType
    return Port(item.name, tuple(int(dim.constant.size) for dim in kind.dimensions), int(kind.dataType))


def read_blob(path: Path, reference: Any) -> bytes:
    """The bytes that a BlobFileValue refers to: a 64-byte header (magic, type, size, offset), then data."""
    with path.open("rb") as file:
        file.seek(reference.offset)
        magic, _, size, offset = struct.unpack("<IIQQ", file.read(24))
        if magic != BLOB_MAGIC:
            raise MilError(f"{path}: no weight at {reference.offset}")
        file.seek(offset)
        return file.read(size)


def unpack(data: bytes, dtype: int, shape: tuple[int, ...]) -> Array:
    """Stored bytes as numbers; codes below a byte are packed from the lowest bit up."""
    if dtype not in SMALL_UINTS:
        return np.frombuffer(data, DTYPES[dtype])
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    width, count = SMALL_UINTS[dtype], int(np.prod(shape))
    digits = bits[: count * width].reshape(count, width)
    return np.packbits(digits, axis=1, bitorder="little").reshape(-1)


def to_tensor(array: Array, shape: tuple[int, ...]) -> Tensor:
    """Numbers as a tensor; the unsigned types that PyTorch computes little with become int32."""
    wide = array.astype(np.int32) if array.dtype in (np.uint16, np.uint32, np.uint64) else array
    return torch.from_numpy(np.array(wide)).reshape(shape)


def widened(value: Any) -> Any:
    """fp16 as fp32, anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def rounded(op: Any, index: int, value: Tensor) -> Tensor:
    """A result in the type and shape that the operation's output declares."""
    kind = op.outputs[index].type.tensorType
    shape = tuple(int(dim.constant.size) for dim in kind.dimensions)
    if tuple(value.shape) != shape:
        raise MilError(f"{op.type} {op.outputs[index].name}: shape {tuple(value.shape)}, declared {shape}")
    return value.to(TORCH[kind.dataType])


def last_uses(block: Any) -> dict[int, list[str]]:
    """Position of an operation -> the values that no later operation and no output needs."""
    last: dict[str, int] = {}
    for index, op in enumerate(block.operations):
        for argument in op.inputs.values():
            last |= {item.name: index for item in argument.arguments if item.WhichOneof("binding") == "name"}
    table: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in block.outputs:
            table.setdefault(index, []).append(name)
    return table
