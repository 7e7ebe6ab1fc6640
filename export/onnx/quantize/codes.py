"""Weights as 8-bit and 4-bit codes, and the pass that puts them into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.calibrate import Range, scale_and_zero
from export.onnx.graph import attribute, initializers, users
from export.onnx.passes import shapes
from export.onnx.waiting import array_of, leave, maker_of

# Largest code of a "static" layer's weights. CPUs without int8 dot products add pairs of u8 * s8 products in
# 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 would saturate into wrong pictures there, and only there.
STATIC_LIMIT = 64
STORED_LIMIT = 127
BLOCK = 32  # inputs that share a scale in 4 bits
Array = npt.NDArray[Any]


class Rewriter:
    """Collects the nodes and tensors of the rewritten graph; each activation is quantized once."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, tuple[Range, Range]]) -> None:
        self.weights = initializers(model.graph)
        self.shapes, self.users = shapes(model.graph), users(model.graph)
        self.skipped: set[str] = set()  # names of nodes that were replaced
        self.ranges = ranges
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.quantized: dict[str, tuple[str, np.float32]] = {}
        self.made: set[str] = set()

    def store(self, name: str, value: Array) -> str:
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self.made.add(output)
        return output

    def array(self, name: str) -> Array:
        return array_of(self.weights[name])

    def sides(self, node: onnx.NodeProto) -> tuple[Range, Range]:
        """The ranges of a node's input and output."""
        return self.ranges[layer_of(node)]

    def activation(self, node: onnx.NodeProto, rows: bool = False) -> tuple[str, np.float32]:
        """A node's input as its 8-bit code, which all its users share, and the code's step.

        rows: as a matrix [rows, inputs].
        """
        name = f"{node.input[0]}.rows" if rows else node.input[0]
        if name not in self.quantized:
            limits = self.sides(node)[0]
            if rows:
                width = np.array([-1, self.weights[node.input[1]].dims[0]], np.int64)
                self.add("Reshape", [node.input[0], self.store(f"{name}.shape", width)], name)
            self.quantized[name] = self.pair(name, name, limits), scale_and_zero(*limits)[0]
        return self.quantized[name]

    def pair(self, name: str, source: str, limits: Range, output: str | None = None) -> str:
        """QuantizeLinear and DequantizeLinear of `source` over a range; new tensors are named after `name`."""
        scale, zero = scale_and_zero(*limits)
        code = [self.store(f"{name}.scale", np.asarray(scale)), self.store(f"{name}.zero", np.asarray(zero))]
        quantized = self.add("QuantizeLinear", [source, *code], f"{name}.u8")
        return self.add("DequantizeLinear", [quantized, *code], output or f"{name}.from_u8")

    def static_weight(self, name: str, axis: int) -> tuple[str, Array]:
        """A weight as codes behind DequantizeLinear; also its scales."""
        return self.static_codes(name, self.array(name), axis)

    def static_codes(self, name: str, weight: Array, axis: int) -> tuple[str, Array]:
        """`weight` as codes, named after `name`, behind DequantizeLinear; also its scales."""
        codes, scales = encode(weight, axis, STATIC_LIMIT)
        value = f"{name}.from_codes"
        if value not in self.made:
            parts = [self.store(f"{name}.codes", codes), self.store(f"{name}.scales", scales)]
            parts.append(self.store(f"{name}.zeros", np.zeros(len(scales), np.int8)))
            self.add("DequantizeLinear", parts, value, axis=axis)
        return value, scales

    def stored_weight(self, name: str, axis: int) -> str:
        """A weight as codes that become fp32 when the graph is loaded."""
        codes, scales = encode(self.array(name), axis, STORED_LIMIT)
        value = f"{name}.float"
        if value not in self.made:
            shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
            parts = [self.store_codes(name, codes, axis), self.store(f"{name}.steps", scales.reshape(shape))]
            self.add("Cast", parts[:1], f"{name}.cast", to=onnx.TensorProto.FLOAT)
            self.add("Mul", [f"{name}.cast", parts[1]], value)
        return value

    def store_codes(self, name: str, codes: Array, axis: int) -> str:
        """A weight's codes; those of a waiting weight are computed again when they are written."""
        stored, weight = f"{name}.stored", self.weights[name]
        if make := maker_of(weight):
            encoded = lambda: encode(make(), axis, STORED_LIMIT)[0]  # noqa: E731
            self.tensors.append(leave(stored, codes.shape, onnx.TensorProto.INT8, encoded))
            return stored
        return self.store(stored, codes)

    def bias(self, node: onnx.NodeProto, scales: Array, step: np.float32) -> str:
        """A layer's bias as int32 codes in units of input step times weight scale."""
        return self.static_bias(f"{node.name}.bias", self.array(node.input[2]), scales, step)

    def static_bias(self, name: str, bias: Array, scales: Array, step: np.float32) -> str:
        """`bias` as such codes, named after `name`."""
        unit = (scales * step).astype(np.float32)
        codes = np.rint(bias / unit).clip(-(2**31), 2**31 - 1).astype(np.int32)
        parts = [self.store(f"{name}.i32", codes), self.store(f"{name}.scales", unit)]
        parts.append(self.store(f"{name}.zeros", np.zeros(len(codes), np.int32)))
        return self.add("DequantizeLinear", parts, f"{name}.from_i32", axis=0)


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB") else 1


def encode(weight: Array, axis: int, limit: int) -> tuple[Array, Array]:
    """Symmetric int8 codes in [-limit, limit] and f32 scales, one per slice along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(axis=others) / limit, 1e-12).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    codes = np.rint(weight / scales.reshape(shape)).clip(-limit, limit)
    return codes.astype(np.int8), scales


def encode_blocks(weight: Array) -> tuple[Array, Array]:
    """Codes u8[outputs, blocks, BLOCK] in 0..15 and scales f32[outputs, blocks] of a matrix [outputs, inputs].

    (code - 8) * scale is the weight; the largest weight of a block in magnitude gets -8.
    Inputs are padded with zeros.
    """
    outputs, inputs = weight.shape
    blocks = np.pad(weight, ((0, 0), (0, -inputs % BLOCK))).reshape(outputs, -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    scales = np.where(largest == 0, 1, largest / -8).astype(np.float32)
    codes = (np.rint(blocks / scales[..., None]) + 8).clip(0, 15)
    return codes.astype(np.uint8), scales


def layer_of(node: onnx.NodeProto) -> str:
    """The name of the layer that a node computes: the path in `path.of.module/Op`."""
    return str(node.name).rpartition("/")[0]
