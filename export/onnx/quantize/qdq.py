"""Rewrites an ONNX graph's layers to 8 bits: codes and scales for weights, pairs of nodes for activations.

Weights are symmetric int8 with one scale per output channel. A layer with only its weights stored that way
("weights") computes in fp32: its codes go through Cast and Mul, which ONNX Runtime folds when it loads the
graph (DequantizeLinear would run on every call). A layer in 8 bits throughout ("static") has
QuantizeLinear and DequantizeLinear around it, which fuse into QLinearConv and MatMulIntegerToFloat. A matrix in
4 bits ("int4") is one MatMulNBits, which unpacks blocks of it while it multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from export.calibrate import Range, scale_and_zero
from export.onnx.graph import MICROSOFT, declare_microsoft, drop_unused, refuse_doubles
from export.onnx.quantize.codes import BLOCK, STORED_LIMIT, Rewriter, encode, encode_blocks, layer_of, output_axis
from export.onnx.quantize.rows import rows_of, static_rows

STATIC, WEIGHTS, INT4 = "static", "weights", "int4"


def rewrite(
    model: onnx.ModelProto, plan: Mapping[str, str], ranges: Mapping[str, tuple[Range, Range]]
) -> onnx.ModelProto:
    """The graph with the nodes of the layers in `plan` rewritten ("static", "weights" or "int4" by layer name).

    The given model is unchanged and shares nothing with the new one. ranges: by layer name, of its input and
    output, for the static ones.
    """
    rewriter = Rewriter(model, ranges)
    for node in model.graph.node:
        if node.name and node.name in rewriter.skipped:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        REWRITES.get((plan.get(layer_of(node), ""), node.op_type), keep)(rewriter, copy)
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.producer_name, made.graph.name = model.producer_name, model.graph.name
    made.graph.input.extend(model.graph.input)
    made.graph.output.extend(model.graph.output)
    made.graph.node.extend(rewriter.nodes)
    uses = {name for node in rewriter.nodes for name in node.input}
    made.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in uses)
    made.graph.initializer.extend(rewriter.tensors)
    drop_unused(made.graph)
    refuse_doubles(made.graph, "quantization")
    declare_microsoft(made)
    return made


def keep(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The node as it is."""
    rewriter.nodes.append(node)


def static_conv(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Conv from codes to codes: without the pair behind it ONNX Runtime would not fuse."""
    given, step = rewriter.activation(node)
    weight, scales = rewriter.static_weight(node.input[1], 0)
    inputs = [given, weight]
    if len(node.input) > 2:
        inputs.append(rewriter.bias(node, scales, step))
    output, limits = node.output[0], rewriter.sides(node)[1]
    node.input[:] = inputs
    node.output[0] = f"{output}.raw"
    rewriter.nodes.append(node)
    rewriter.quantized[output] = rewriter.pair(output, node.output[0], limits, output), scale_and_zero(*limits)[0]


def static_matmul(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """MatMul from codes to fp32; a large one with its bias as in `rows`."""
    found = rows_of(rewriter, node)
    if found is not None:
        static_rows(rewriter, node, found)
        return
    node.input[0] = rewriter.activation(node)[0]
    node.input[1] = rewriter.static_weight(node.input[1], 1)[0]
    rewriter.nodes.append(node)


def static_gemm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Gemm, x W' + b, from codes to fp32: it fuses into QGemm, including the bias."""
    given, step = rewriter.activation(node)
    weight, scales = rewriter.static_weight(node.input[1], output_axis(node))
    bias = [rewriter.bias(node, scales, step)] if len(node.input) > 2 else []
    node.input[:] = [given, weight, *bias]
    rewriter.nodes.append(node)


def stored(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """An fp32 layer whose weight is stored in 8 bits."""
    node.input[1] = rewriter.stored_weight(node.input[1], output_axis(node))
    rewriter.nodes.append(node)


def stored_rows(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """An embedding table in 8 bits, one scale per row: only the rows that are looked up become fp32."""
    table, ids = node.input[:2]
    codes, scales = encode(rewriter.array(table), 0, STORED_LIMIT)
    parts = [rewriter.store(f"{table}.codes", codes), rewriter.store(f"{table}.scales", scales[:, None])]
    rows = rewriter.add("Gather", [parts[0], ids], f"{node.name}.rows")
    scale = rewriter.add("Gather", [parts[1], ids], f"{node.name}.scale")
    cast = rewriter.add("Cast", [rows], f"{node.name}.cast", to=onnx.TensorProto.FLOAT)
    rewriter.add("Mul", [cast, scale], node.output[0])


def four_bits(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """MatMul by a matrix in 4 bits: unsigned codes around 8, two per byte, the lower first; one scale per BLOCK."""
    weight = rewriter.array(node.input[1]).T
    codes, scales = encode_blocks(weight)
    packed = (codes[..., ::2] | codes[..., 1::2] << 4).astype(np.uint8)
    name = node.input[1]
    inputs = [node.input[0], rewriter.store(f"{name}.nibbles", packed), rewriter.store(f"{name}.blocks", scales)]
    outputs, columns = weight.shape
    rewriter.nodes.append(
        helper.make_node(
            "MatMulNBits",
            inputs,
            list(node.output),
            name=node.name,
            domain=MICROSOFT,
            K=columns,
            N=outputs,
            bits=4,
            block_size=BLOCK,
        )
    )


REWRITES = {
    (STATIC, "Conv"): static_conv,
    (STATIC, "MatMul"): static_matmul,
    (STATIC, "Gemm"): static_gemm,
    (WEIGHTS, "Conv"): stored,
    (WEIGHTS, "MatMul"): stored,
    (WEIGHTS, "Gemm"): stored,
    (WEIGHTS, "Gather"): stored_rows,
    (INT4, "MatMul"): four_bits,
}
