"""An ONNX graph in half precision: float inputs and outputs, and float where half precision would hurt."""

from __future__ import annotations

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

# Sums over whole feature maps, and exponentials: float inside, half outside.
FLOAT_OPS = ["InstanceNormalization", "LayerNormalization", "Softmax", "Resize"]
# 999 times a frequency needs more than 11 bits to be right in the argument of a sine.
FLOAT_PARTS = ("time_proj",)


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph with weights and arithmetic in fp16."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [node.name for node in copy.graph.node if any(part in node.name for part in FLOAT_PARTS)]
    converted: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, op_block_list=FLOAT_OPS, node_block_list=kept
    )
    return converted
