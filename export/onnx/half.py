"""An ONNX graph in half precision: fp32 inputs and outputs, and fp32 where half precision would hurt."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx.graph import drop_unused, node_names, refuse_doubles, tensor_names, unique
from export.onnx.waiting import array_of, leave, maker_of

# Sums over whole feature maps, and exponentials: fp32 inside, fp16 outside. A Cast names its own type.
FLOAT_OPS = ("Cast", "InstanceNormalization", "LayerNormalization", "Softmax")
# 999 times a frequency needs more than 11 bits to be accurate as the argument of a sine.
FLOAT_PARTS = ("time_proj",)
FLOAT_INPUTS = {"Resize": (1, 2)}  # inputs that are fp32 by the operator's definition: regions and scales
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph with weights and arithmetic in fp16, except as the constants above say."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    Halver(copy).run()
    del copy.graph.value_info[:]  # which still say fp32
    drop_unused(copy.graph)
    refuse_doubles(copy.graph, "to_fp16")
    return copy


class Halver:
    """Makes each node fp16 or fp32 and casts the tensors that pass between the two kinds, each once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.kinds = element_types(model)
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.cast: dict[tuple[str, int], str] = {}
        self.tensor = partial(unique, taken=tensor_names(self.graph))
        self.node = partial(unique, taken=node_names(self.graph))

    def run(self) -> None:
        """Rewrite the graph in place."""
        outputs = {output.name for output in self.graph.output}
        for node in self.graph.node:
            kind = FLOAT if stays_float(node) else HALF
            for i, name in enumerate(node.input):
                fixed = i in FLOAT_INPUTS.get(node.op_type, ())
                node.input[i] = self.as_kind(name, FLOAT if fixed else kind)
            self.nodes.append(node)
            self.name_outputs(node, kind, outputs)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def as_kind(self, name: str, kind: int) -> str:
        """The tensor `name` in fp16 or fp32; tensors that are not floats stay as they are."""
        have = self.kinds.get(name)
        if have not in (HALF, FLOAT) or have == kind:
            return name
        if (name, kind) not in self.cast:
            self.cast[name, kind] = self.converted(name, kind)
        return self.cast[name, kind]

    def converted(self, name: str, kind: int) -> str:
        """A new tensor of the other kind: a weight is stored in it, anything else is cast."""
        made = self.tensor(f"{name}.{'fp16' if kind == HALF else 'fp32'}")
        if name in self.weights:
            self.graph.initializer.append(halved(self.weights[name], made))
        else:
            self.nodes.append(helper.make_node("Cast", [name], [made], name=self.node(made), to=kind))
        return made

    def name_outputs(self, node: onnx.NodeProto, kind: int, outputs: set[str]) -> None:
        """Record a node's outputs; an fp16 output of the whole graph is cast back under its own name."""
        for i, name in enumerate(node.output):
            if self.kinds.get(name) != FLOAT or kind == FLOAT:
                continue
            self.kinds[name] = HALF
            if name in outputs:
                node.output[i] = self.tensor(f"{name}.half")
                self.kinds[node.output[i]] = HALF
                self.kinds[name] = FLOAT
                back = helper.make_node("Cast", [node.output[i]], [name], name=self.node(f"{name}.back"), to=FLOAT)
                self.nodes.append(back)


def stays_float(node: onnx.NodeProto) -> bool:
    """Whether a node computes in fp32."""
    return node.op_type in FLOAT_OPS or any(part in node.name for part in FLOAT_PARTS)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name -> ONNX element type, for every tensor of the graph."""
    graph = model.graph  # as traced: ONNX's type inference does not know ONNX Runtime's operators
    ports = [*graph.value_info, *graph.input, *graph.output]
    kinds = {port.name: int(port.type.tensor_type.elem_type) for port in ports}
    return kinds | {tensor.name: int(tensor.data_type) for tensor in graph.initializer}


def halved(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """A stored tensor in fp16 under a new name; waiting where the given one is."""
    if make := maker_of(tensor):
        return leave(name, tensor.dims, HALF, lambda: half(make()))
    return numpy_helper.from_array(half(array_of(tensor)), name)


def half(numbers: Any) -> Any:
    """Numbers in fp16, clipped to its range."""
    return np.clip(numbers, -65504, 65504).astype(np.float16)
