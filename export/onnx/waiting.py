"""Weights that stay in PyTorch's memory while a large graph is rewritten: each is read when it is written.

A traced graph normally holds a copy of its weights, and each rewriting another one. Here a stored tensor only names a
function that gives its numbers, so that passes handle a small graph; `array_of` reads any stored tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
LEAST_BYTES = 1 << 20  # smaller weights are copied into the graph
MARK = "waiting:"
_numbers = itertools.count()
_makers: dict[str, Callable[[], Array]] = {}


def leave(name: str, dims: Sequence[int], kind: int, make: Callable[[], Array]) -> onnx.TensorProto:
    """A stored tensor of an ONNX element type whose numbers `make` gives when they are asked for, until `forget`."""
    made = onnx.TensorProto(name=name, dims=dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    key = f"{MARK}{next(_numbers)}"
    made.external_data.add(key="location", value=key)
    _makers[key] = make
    return made


def forget() -> None:
    """Let go of all waiting weights: graphs that name them are unusable afterwards."""
    _makers.clear()


def maker_of(tensor: onnx.TensorProto) -> Callable[[], Array] | None:
    """What gives a waiting tensor's numbers; None for a tensor that holds them."""
    return next((_makers[entry.value] for entry in tensor.external_data if entry.value.startswith(MARK)), None)


def array_of(tensor: onnx.TensorProto) -> Array:
    """The numbers of a stored tensor."""
    make = maker_of(tensor)
    return np.asarray(numpy_helper.to_array(tensor) if make is None else make())


def bytes_in(tensor: onnx.TensorProto) -> int:
    """How many bytes a tensor's numbers take in a file."""
    if maker_of(tensor) is None:
        return len(tensor.raw_data)
    return int(np.prod(tensor.dims)) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def bring(tensor: onnx.TensorProto) -> None:
    """In place: a waiting tensor holds its numbers from now on; others do already."""
    if maker_of(tensor) is not None:
        numbers = array_of(tensor)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = numbers.tobytes()


def serialized(program: Any) -> onnx.ModelProto:
    """The graph of a torch.onnx program, its large weights waiting."""
    import onnx_ir

    kept: dict[str, Any] = {}
    for name, value in program.model.graph.initializers.items():
        held = value.const_value
        if held.nbytes >= LEAST_BYTES:
            kept[name] = held
            value.const_value = onnx_ir.ExternalTensor(
                MARK, None, None, dtype=held.dtype, shape=held.shape, name=name, base_dir=""
            )
    model: onnx.ModelProto = program.model_proto
    for tensor in model.graph.initializer:
        if tensor.name in kept:
            held = kept[tensor.name]
            tensor.CopyFrom(leave(tensor.name, tensor.dims, tensor.data_type, held.numpy))
    return model
