"""Weights of an OpenVINO model in 8 bits: u8 codes with a scale and a zero point per output channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.openvino.run import load_openvino

# Operations that multiply or look up weights, and the input where the weights are.
READERS = {"MatMul": 1, "Convolution": 1, "Gather": 0}
LEAST = 4096  # numbers in a weight that is worth compressing
# The first and last convolution and the time embedding are stored in f16: small, and every picture depends on them.
SPARED = ("conv_in.", "conv_out.", "time_embedding.")
LEVELS = 255

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.uint8]


def quantize_weights(model: Any) -> int:
    """Replace an openvino.Model's large weights by u8 codes in the layout of NNCF's weight compression; how many.

    Layers compute in floating point: a plugin expands the codes when it loads the model, or as it multiplies.
    """
    count = 0
    for node in model.get_ordered_ops():
        index = READERS.get(node.get_type_name())
        weight = None if index is None else node.input_value(index).get_node()
        if weight is None or not is_large(weight):
            continue
        spared = any(part in weight.get_friendly_name() for part in SPARED)
        values = weight.get_data()
        weight.output(0).replace(halved(values) if spared else widened(values, output_axis(node)))
        count += not spared
    return count


def is_large(node: Any) -> bool:
    """Whether a node is a constant of many floating-point numbers."""
    if node.get_type_name() != "Constant" or not node.get_element_type().is_real():
        return False
    shape = list(node.get_output_shape(0))
    return len(shape) >= 2 and int(np.prod(shape)) >= LEAST


def output_axis(node: Any) -> int:
    """The axis of a layer's weight that counts its output channels, or a table's rows."""
    if node.get_type_name() != "MatMul":
        return 0
    rank = len(node.input_value(1).get_partial_shape())
    return rank - 2 if node.get_attributes()["transpose_b"] else rank - 1


def quantize(weight: Floats, axis: int) -> tuple[Codes, Codes, npt.NDArray[np.float16]]:
    """(codes, zero point, scale) with weight = (code - zero point) * scale; one of each per channel of `axis`.

    Zero is represented exactly.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    low = np.minimum(weight.min(axis=others, keepdims=True), 0)
    high = np.maximum(weight.max(axis=others, keepdims=True), 0)
    exact = (high - low) / LEVELS
    scale = exact.astype(np.float16)
    scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)  # rounded down, the ends would clip
    scale = np.maximum(scale, np.finfo(np.float16).tiny)  # a channel of zeros or nearly zeros
    step = scale.astype(np.float32)
    zero = np.clip(np.rint(-low / step), 0, LEVELS)
    codes = np.clip(np.rint(weight / step) + zero, 0, LEVELS)
    return codes.astype(np.uint8), zero.astype(np.uint8), scale


def widened(weight: Floats, axis: int) -> Any:
    """The output of a subgraph that computes f32 weights from stored codes."""
    ops, Type = load_openvino().opset13, load_openvino().Type
    codes, zero, scale = quantize(weight, axis)
    difference = ops.subtract(ops.convert(ops.constant(codes), Type.f16), ops.convert(ops.constant(zero), Type.f16))
    return ops.convert(ops.multiply(difference, ops.constant(scale)), Type.f32).output(0)


def halved(weight: Floats) -> Any:
    """The output of a subgraph that converts f16 weights to f32."""
    openvino = load_openvino()
    return openvino.opset13.convert(openvino.opset13.constant(weight.astype(np.float16)), openvino.Type.f32).output(0)
