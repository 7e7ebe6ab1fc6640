"""The values that a package contains, in the program or in its weight files, read when they are used."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.mil.ops.registry import STRING, DataType, Operation
from export.mil.ops.weights import unpacked
from export.mil.package import MilError, Package, Port, inside, kind_of, shape_of

Bytes = npt.NDArray[np.uint8]
BLOB_MAGIC = 0xDEADBEEF
BLOB_HEADER = 64  # bytes: magic, type, size, offset of the data, reserved
MODEL_PATH = "@model_path/"


class WeightFiles:
    """The files that a program's values refer to, mapped into memory and only read when they are used."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.mapped: dict[str, Bytes] = {}

    def blob(self, reference: Any) -> Bytes:
        """The bytes of a BlobFileValue; MilError when its reference is broken."""
        data = self.file(reference.fileName)
        start = int(reference.offset)
        if start + BLOB_HEADER > len(data):
            raise self.damaged(reference, "the file ends before")
        magic, _, size, offset = struct.unpack("<IIQQ", data[start : start + 24].tobytes())
        if magic != BLOB_MAGIC:
            raise self.damaged(reference, "no weight is there")
        if offset + size > len(data):
            raise self.damaged(reference, "the file ends within the weight")
        return data[offset : offset + size]

    def file(self, name: str) -> Bytes:
        """The weight file that the program refers to by this name."""
        if name not in self.mapped:
            folder = self.package.folder
            path = inside(self.package.path, folder / name.removeprefix(MODEL_PATH))
            if path.stat().st_size == 0:
                raise MilError(f"{self.package.path} is damaged: {path.relative_to(folder)} is empty")
            self.mapped[name] = np.memmap(path, np.uint8, "c")
        return self.mapped[name]

    def damaged(self, reference: Any, why: str) -> MilError:
        """The error for a reference that leads nowhere."""
        name = Path(reference.fileName).name
        return MilError(f"{self.package.path} is damaged: {name} at {reference.offset}: {why}")

    def value(self, spec: Any, name: str) -> Any:
        """A Value as stored: text as str, numbers as a tensor of their shape."""
        tensor_type = spec.type.tensorType
        if spec.type.WhichOneof("type") != "tensorType":
            raise MilError(f"{name}: a {spec.type.WhichOneof('type')} is not known here")
        raw = self.blob(spec.blobFileValue) if spec.WhichOneof("value") == "blobFileValue" else immediate(spec)
        if tensor_type.dataType == STRING:
            if len(raw) != 1 or not isinstance(raw[0], str):
                raise MilError(f"{self.package.path} is damaged: {name} is not a single text")
            return raw[0]
        kind = kind_of(tensor_type, name)
        shape = tuple(size or 0 for size in shape_of(tensor_type))
        try:
            array = decoded(raw, kind, math.prod(shape)) if isinstance(raw, np.ndarray) else np.array(raw, kind.numpy)
            return torch.from_numpy(array).to(kind.torch).reshape(shape)
        except (ValueError, RuntimeError) as error:
            raise MilError(f"{self.package.path} is damaged: {name} does not have the shape {shape}") from error


def immediate(spec: Any) -> Bytes | list[Any]:
    """What a Value contains inline: bytes, or a list of Python values."""
    tensor = spec.immediateValue.tensor
    field = tensor.WhichOneof("value")
    raw = getattr(tensor, field).values if field else []
    return np.frombuffer(bytearray(raw), np.uint8) if isinstance(raw, bytes) else list(raw)


def decoded(data: Bytes, kind: DataType, count: int) -> npt.NDArray[Any]:
    """Stored bytes as `count` numbers; those narrower than a byte are packed from the lowest bit up."""
    if len(data) != -(-count * kind.bits // 8):
        raise ValueError("another number of bytes")
    if kind.bits >= 8:
        return np.require(data.view(kind.numpy), requirements=["A"])
    codes = unpacked(data, kind.bits, count)
    signed = kind.numpy == np.int8
    return ((codes ^ 8).astype(np.int8) - 8).astype(np.int8) if signed else codes


class Constant:
    """A value that is known before the run. It is computed when it is used, and kept if `keep` is set."""

    def __init__(self, port: Port | None, load: Callable[[], Any]) -> None:
        self.port = port  # None: a text
        self.load = load
        self.keep = False
        self.kept: dict[bool, Any] = {}

    @property
    def expanded_bytes(self) -> int:
        """The memory that it takes as fp32 (or in its own type)."""
        return math.prod(size or 1 for size in self.port.shape) * 4 if self.port else 0

    def get(self, wide: bool) -> Any:
        """The value; wide: fp16 as fp32."""
        if wide in self.kept:
            return self.kept[wide]
        value = self.load()
        value = widened(value) if wide else value
        if self.keep:
            self.kept[wide] = value
        return value


def widened(value: Any) -> Any:
    """fp16 as fp32, anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def expression(operation: Operation, parts: dict[str, Constant], ports: list[Port], index: int) -> Callable[[], Any]:
    """A function that computes one output of a constexpr operation from its parts."""

    def make() -> Tensor:
        found = operation.function(**{name: part.get(False) for name, part in parts.items()})
        value: Tensor = found[index] if isinstance(found, tuple) else found
        if not ports[index].takes(tuple(value.shape)):
            raise MilError(f"{ports[index].name}: shape {tuple(value.shape)}, declared {ports[index].shape}")
        return value.to(ports[index].kind.torch)

    return make
