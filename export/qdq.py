"""Rewrite an ONNX graph's layers to 8 bits: codes and scales for weights, pairs of nodes for activations.

Weights are symmetric int8 with one scale an output channel. A layer whose weights alone are stored so
("weights") computes in float: its codes go through Cast and Mul, which ONNX Runtime folds when it loads the
graph (DequantizeLinear would be computed at every call). A layer in 8 bits throughout ("static") has
QuantizeLinear and DequantizeLinear around it, which fuse into QLinearConv and MatMulIntegerToFloat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.calibrate import Range, scale_and_zero
from export.onnx_graph import attribute, drop_unused, initializers

# Largest code of a "static" layer's weights. CPUs without int8 dot products add pairs of u8 * s8 products in
# 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 would saturate into wrong pictures there, and only there.
STATIC_LIMIT = 64
STORED_LIMIT = 127
STATIC, WEIGHTS = "static", "weights"

Array = npt.NDArray[Any]


class Rewriter:
    """Collects the nodes and tensors of the rewritten graph; each activation is quantized once."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
        self.weights = initializers(model.graph)
        self.ranges = ranges
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.quantized: dict[str, str] = {}
        self.made: set[str] = set()

    def store(self, name: str, value: Array) -> str:
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self.made.add(output)
        return output

    def array(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self.weights[name]))

    def activation(self, name: str) -> str:
        """The tensor `name` through its 8-bit code."""
        if name not in self.quantized:
            self.quantized[name] = self.pair(name, name)
        return self.quantized[name]

    def pair(self, name: str, source: str, output: str | None = None) -> str:
        """QuantizeLinear and DequantizeLinear of `source`, with the range of the tensor `name`."""
        scale, zero = scale_and_zero(*self.ranges[name])
        code = [self.store(f"{name}.scale", np.asarray(scale)), self.store(f"{name}.zero", np.asarray(zero))]
        quantized = self.add("QuantizeLinear", [source, *code], f"{name}.u8")
        return self.add("DequantizeLinear", [quantized, *code], output or f"{name}.from_u8")

    def static_weight(self, name: str, axis: int) -> tuple[str, Array]:
        """A weight as codes behind DequantizeLinear; also its scales."""
        codes, scales = encode(self.array(name), axis, STATIC_LIMIT)
        value = f"{name}.from_codes"
        if value not in self.made:
            parts = [self.store(f"{name}.codes", codes), self.store(f"{name}.scales", scales)]
            parts.append(self.store(f"{name}.zeros", np.zeros(len(scales), np.int8)))
            self.add("DequantizeLinear", parts, value, axis=axis)
        return value, scales

    def stored_weight(self, name: str, axis: int) -> str:
        """A weight as codes that are turned to float when the graph is loaded."""
        codes, scales = encode(self.array(name), axis, STORED_LIMIT)
        value = f"{name}.float"
        if value not in self.made:
            shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
            parts = [self.store(f"{name}.stored", codes), self.store(f"{name}.steps", scales.reshape(shape))]
            self.add("Cast", parts[:1], f"{name}.cast", to=onnx.TensorProto.FLOAT)
            self.add("Mul", [f"{name}.cast", parts[1]], value)
        return value

    def bias(self, node: onnx.NodeProto, scales: Array) -> str:
        """A convolution's bias as int32 codes in units of input scale times weight scale."""
        step, _ = scale_and_zero(*self.ranges[node.input[0]])
        unit = (scales * step).astype(np.float32)
        codes = np.rint(self.array(node.input[2]) / unit).clip(-(2**31), 2**31 - 1).astype(np.int32)
        name = f"{node.name}.bias"
        parts = [self.store(f"{name}.i32", codes), self.store(f"{name}.scales", unit)]
        parts.append(self.store(f"{name}.zeros", np.zeros(len(codes), np.int32)))
        return self.add("DequantizeLinear", parts, f"{name}.from_i32", axis=0)


def rewrite(model: onnx.ModelProto, plan: Mapping[str, str], ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """A copy of the graph with each node of `plan` rewritten ("static" or "weights", by node name).

    ranges: (low, high) of the tensors that `activations` names for the static nodes.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rewriter = Rewriter(copy, ranges)
    for node in list(copy.graph.node):
        REWRITES.get((plan.get(node.name, ""), node.op_type), keep)(rewriter, node)
    del copy.graph.node[:]
    copy.graph.node.extend(rewriter.nodes)
    copy.graph.initializer.extend(rewriter.tensors)
    drop_unused(copy.graph)
    return copy


def keep(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The node as it is."""
    rewriter.nodes.append(node)


def static_conv(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Conv on codes, to codes: without the pair behind it ONNX Runtime would not fuse."""
    inputs = [rewriter.activation(node.input[0])]
    weight, scales = rewriter.static_weight(node.input[1], 0)
    inputs.append(weight)
    if len(node.input) > 2:
        inputs.append(rewriter.bias(node, scales))
    output = node.output[0]
    node.input[:] = inputs
    node.output[0] = f"{output}.raw"
    rewriter.nodes.append(node)
    rewriter.quantized[output] = rewriter.pair(output, node.output[0], output)


def static_matmul(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """MatMul on codes, to float."""
    node.input[0] = rewriter.activation(node.input[0])
    node.input[1] = rewriter.static_weight(node.input[1], 1)[0]
    rewriter.nodes.append(node)


def stored(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """A float layer whose weight is stored in 8 bits."""
    node.input[1] = rewriter.stored_weight(node.input[1], output_axis(node))
    rewriter.nodes.append(node)


def stored_rows(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """An embedding table in 8 bits, one scale a row: only the rows that are looked up become float."""
    table, ids = node.input[:2]
    codes, scales = encode(rewriter.array(table), 0, STORED_LIMIT)
    parts = [rewriter.store(f"{table}.codes", codes), rewriter.store(f"{table}.scales", scales[:, None])]
    rows = rewriter.add("Gather", [parts[0], ids], f"{node.name}.rows")
    scale = rewriter.add("Gather", [parts[1], ids], f"{node.name}.scale")
    cast = rewriter.add("Cast", [rows], f"{node.name}.cast", to=onnx.TensorProto.FLOAT)
    rewriter.add("Mul", [cast, scale], node.output[0])


REWRITES = {
    (STATIC, "Conv"): static_conv,
    (STATIC, "MatMul"): static_matmul,
    (WEIGHTS, "Conv"): stored,
    (WEIGHTS, "MatMul"): stored,
    (WEIGHTS, "Gemm"): stored,
    (WEIGHTS, "Gather"): stored_rows,
}


def activations(model: onnx.ModelProto, plan: Mapping[str, str]) -> list[str]:
    """The tensors whose ranges the static nodes of `plan` need, each once."""
    names: dict[str, None] = {}
    for node in model.graph.node:
        if plan.get(node.name) == STATIC:
            names[node.input[0]] = None
            if node.op_type == "Conv":
                names[node.output[0]] = None
    return list(names)


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB") else 1


def encode(weight: Array, axis: int, limit: int) -> tuple[Array, Array]:
    """Symmetric int8 codes in [-limit, limit] and f32 scales, one a slice along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(axis=others) / limit, 1e-12).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    codes = np.rint(weight / scales.reshape(shape)).clip(-limit, limit)
    return codes.astype(np.int8), scales
