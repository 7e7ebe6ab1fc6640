"""Reads a .mlpackage: Manifest.json, the model's protobuf, one of its functions; any damage gives one clear error."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from export.mil.ops.registry import DTYPES, DataType
from runtime.errors import UserError

NEWEST_OPSET = 9  # CoreML9: iOS26
PROTOBUF = "export_mil_protobuf"  # what coremltools.proto is called when it is loaded alone


class MilError(UserError):
    """A package that this evaluator cannot read, or an operation that it does not know; the message names it."""


@dataclass(frozen=True)
class Port:
    """A named value of a program: its shape (None: any length) and type."""

    name: str
    shape: tuple[int | None, ...]
    kind: DataType

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of that shape is accepted."""
        return len(shape) == len(self.shape) and all(a in (None, b) for a, b in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class Package:
    """One function of a package, as read."""

    path: Path
    folder: Path  # the folder of model.mlmodel, which @model_path refers to
    spec: Any  # Model.proto
    function_name: str
    function: Any  # MIL.proto
    block: Any
    opset: int
    inputs: list[Port]

    @property
    def description(self) -> Any:
        """What Model.proto says about the function's inputs and outputs."""
        for described in self.spec.description.functions:
            if described.name == self.function_name:
                return described
        return self.spec.description


def read_package(path: str | Path, function: str | None = None) -> Package:
    """A package's function: the one named, or the default one.

    Raises MilError when the folder is not an ML program, is damaged, or keeps a state between calls.
    """
    package = Path(path)
    model = package if package.is_file() else model_file(package)
    spec = read_spec(model, package)
    if package.is_file():
        raise MilError(f"{package} is one file of a package: give the .mlpackage folder")
    name = function or spec.description.defaultFunctionName or "main"
    functions = spec.mlProgram.functions
    if name not in functions:
        there = ", ".join(sorted(functions)) or "none"
        raise MilError(f"{package} has no function {name}; it has: {there} (choose one with --function)")
    chosen = functions[name]
    if chosen.opset not in chosen.block_specializations:
        raise MilError(f"{package}: function {name} has no block for its opset {chosen.opset!r}")
    states = [item.name for item in chosen.inputs if item.type.WhichOneof("type") == "stateType"]
    if states:
        raise MilError(f"{package} keeps a state between calls ({', '.join(states)}): that is not known here")
    block = chosen.block_specializations[chosen.opset]
    inputs = [port_of(item) for item in chosen.inputs]
    return Package(package, model.parent, spec, name, chosen, block, opset_number(package, chosen.opset), inputs)


def model_file(package: Path) -> Path:
    """The path of the model in a package, from its Manifest.json; MilError unless it is inside the package."""
    if package.suffix == ".mlmodelc":
        raise MilError(f"{package} is compiled: give the .mlpackage that it was made from")
    if not package.exists():
        raise MilError(f"{package}: no such package")
    try:
        manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        return inside(package, package / "Data" / str(entry["path"]))
    except OSError as error:
        raise MilError(f"{package} is not a Core ML package: Manifest.json: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MilError(f"{package} is damaged: Manifest.json: {error!r}") from error


def inside(package: Path, path: Path) -> Path:
    """The path, which must be a file inside the package."""
    if "\0" in str(path) or not path.resolve().is_relative_to(package.resolve()):
        raise MilError(f"{package} is damaged: it refers to {path.name!r} outside of it")
    if not path.is_file():
        raise MilError(f"{package} is damaged: {path.relative_to(package)} is missing")
    return path


def read_spec(model: Path, package: Path) -> Any:
    """The parsed Model.proto of an ML program."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    spec = protobuf("Model").Model()
    try:
        spec.ParseFromString(model.read_bytes())
    except (DecodeError, OSError) as error:
        raise MilError(f"{package} is damaged: {model.name}: {error}") from error
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        advice = 'convert the model with convert_to="mlprogram"'
        raise MilError(f"{package} is not an ML program but a {kind or 'model of no type'}: {advice}")
    return spec


def protobuf(name: str) -> Any:
    """coremltools' protobuf module of that name, without the four seconds that `import coremltools` takes."""
    if PROTOBUF not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise MilError("coremltools, whose protobuf classes are needed, is not installed: pip install '.[export]'")
        module = ModuleType(PROTOBUF)
        module.__path__ = [str(Path(found.submodule_search_locations[0]) / "proto")]
        sys.modules[PROTOBUF] = module
    return importlib.import_module(f"{PROTOBUF}.{name}_pb2")


def opset_number(package: Path, opset: str) -> int:
    """8 of CoreML8."""
    found = re.fullmatch(r"CoreML(\d+)", opset)
    if found is None or int(found[1]) > NEWEST_OPSET:
        raise MilError(f"{package}: opset {opset!r} is not known; the newest known one is CoreML{NEWEST_OPSET}")
    return int(found[1])


def port_of(item: Any) -> Port:
    """A NamedValueType; MilError unless it is a tensor of a known type."""
    if item.type.WhichOneof("type") != "tensorType":
        raise MilError(f"{item.name} is a {item.type.WhichOneof('type')}, not a tensor: that is not known here")
    return Port(item.name, shape_of(item.type.tensorType), kind_of(item.type.tensorType, item.name))


def shape_of(tensor_type: Any) -> tuple[int | None, ...]:
    """The dimensions of a TensorType; None where they are flexible."""
    return tuple(
        int(dim.constant.size) if dim.WhichOneof("dimension") == "constant" else None for dim in tensor_type.dimensions
    )


def kind_of(tensor_type: Any, name: str) -> DataType:
    """The element type of a TensorType."""
    if tensor_type.dataType not in DTYPES:
        raise MilError(f"{name}: MIL.proto's data type {tensor_type.dataType} is not known here")
    return DTYPES[tensor_type.dataType]


def default_shapes(package: Package) -> Mapping[str, tuple[int, ...]]:
    """The shape of each input as described; the default for a flexible one."""
    shapes = {}
    for item in package.description.input:
        if item.type.WhichOneof("Type") == "multiArrayType":
            shapes[item.name] = tuple(int(size) for size in item.type.multiArrayType.shape)
    known = {port.name: tuple(size or 1 for size in port.shape) for port in package.inputs}
    return known | {name: shape for name, shape in shapes.items() if shape and len(shape) == len(known.get(name, ()))}
