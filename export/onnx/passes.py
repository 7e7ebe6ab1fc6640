"""Rewrites of a traced graph that save passes over feature maps; each computes the same as the nodes it replaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx.graph import (
    MICROSOFT,
    add_initializer,
    declare_microsoft,
    drop_unused,
    initializers,
    node_names,
    producers,
    refuse_doubles,
    tensor_names,
    unique,
)


def optimize(model: onnx.ModelProto) -> None:
    """In place: exact GELU as one operator, one scale and one shift per norm, added constants as biases."""
    graph = model.graph
    for rewritten in (fuse_gelu, merge_affines, fold_bias):
        rewritten(graph)
        refuse_doubles(graph, rewritten.__name__)
    declare_microsoft(model)


def fuse_gelu(graph: onnx.GraphProto) -> None:
    """x/sqrt(2) -> erf -> +1 -> *0.5 -> *x as one com.microsoft Gelu."""
    single, made, taken = Links(graph), producers(graph), node_names(graph)
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        divided = made.get(erf.input[0])
        chain = list(single.follow(erf, ("Add", "Mul", "Mul")))
        if divided is None or divided.op_type != "Div" or len(chain) != 3:
            continue
        last = chain[-1]
        if divided.input[0] in last.input:
            last.CopyFrom(
                helper.make_node(
                    "Gelu",
                    [divided.input[0]],
                    list(last.output),
                    name=unique(f"{erf.name.rpartition('/')[0]}/Gelu", taken),
                    domain=MICROSOFT,
                )
            )
    drop_unused(graph)


def merge_affines(graph: onnx.GraphProto) -> None:
    """(x * w + b) * s + t, with stored w and b per channel, as x * (w s) + (b s + t): two passes instead of four.

    Norms that an embedding scales and shifts have this form.
    """
    single, stored, sizes = Links(graph), initializers(graph), shapes(graph)
    names, tensors = node_names(graph), tensor_names(graph)
    ahead: dict[int, list[onnx.NodeProto]] = {}
    for first in [node for node in graph.node if node.op_type == "Mul" and other(node, stored)]:
        chain = [first, *single.follow(first, ("Add", "Mul", "Add"))]
        if len(chain) != 4 or not other(chain[1], stored):
            continue
        weight, bias = other(first, stored), other(chain[1], stored)
        scale, shift = other_than(chain[2], chain[1]), other_than(chain[3], chain[2])
        if not all(per_channel(stored.get(name)) for name in (weight, bias)) or sizes.get(scale, [])[2:] != [1, 1]:
            continue
        source, base = other_than_name(first, weight), first.output[0]
        of = {kind: unique(f"{base}.{kind}", tensors) for kind in ("scale", "moved", "shift")}
        called = {kind: unique(f"{first.name}.{kind}", names) for kind in of}
        made = [
            helper.make_node("Mul", [scale, weight], [of["scale"]], name=called["scale"]),
            helper.make_node("Mul", [scale, bias], [of["moved"]], name=called["moved"]),
            helper.make_node("Add", [of["moved"], shift], [of["shift"]], name=called["shift"]),
        ]
        chain[2].input[:] = [source, of["scale"]]
        chain[3].input[:] = [chain[2].output[0], of["shift"]]
        ahead[id(chain[2])] = made
    insert_before(graph, ahead)


def fold_bias(graph: onnx.GraphProto) -> None:
    """Move stored numbers per channel that are added to a convolution's result into its bias."""
    single, stored, taken = Links(graph), initializers(graph), tensor_names(graph)
    for conv in [node for node in graph.node if node.op_type == "Conv" and len(node.input) == 3]:
        for added in single.follow(conv, ("Add",)):
            name = other(added, stored)
            bias = stored.get(conv.input[2])
            if name and bias is not None and per_channel(stored[name]):
                total = numpy_helper.to_array(bias) + numpy_helper.to_array(stored[name]).reshape(-1)
                conv.input[2] = add_initializer(graph, unique(f"{conv.name}.bias", taken), total.astype(np.float32))
                conv.output[0] = added.output[0]
                added.output[0] = unique(f"{added.output[0]}.unused", taken)
    drop_unused(graph)


class Links:
    """Looks up the node that makes a tensor and its only user."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.made = producers(graph)
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(output.name for output in graph.output)
        self.user = {name: node for node in graph.node for name in node.input}

    def follow(self, node: onnx.NodeProto, ops: tuple[str, ...]) -> Iterator[onnx.NodeProto]:
        """The consecutive nodes of these kinds, each the only user of the one before; stops at the first other node."""
        for op in ops:
            name = node.output[0]
            found = self.user.get(name) if self.uses[name] == 1 else None
            if found is None or found.op_type != op:
                return
            yield found
            node = found


def other(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> str:
    """The stored operand of a node with two operands, "" where none or both are stored."""
    names = [name for name in node.input if name in stored]
    return names[0] if len(names) == 1 and len(node.input) == 2 else ""


def other_than(node: onnx.NodeProto, before: onnx.NodeProto) -> str:
    """The operand of `node` that `before` does not produce."""
    return other_than_name(node, before.output[0])


def other_than_name(node: onnx.NodeProto, name: str) -> str:
    """The operand of a node with two operands that is not `name`."""
    return str(node.input[0] if node.input[1] == name else node.input[1])


def per_channel(tensor: onnx.TensorProto | None) -> bool:
    """Whether a stored tensor has one number per channel of a feature map: [C,1,1] or [1,C,1,1]."""
    if tensor is None or len(tensor.dims) not in (3, 4):
        return False
    dims = list(tensor.dims)
    return dims[-2:] == [1, 1] and (len(dims) == 3 or dims[0] == 1)


def shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Tensor name -> its shape as the tracer recorded it, 0 for the batch."""
    return {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in graph.value_info}


def insert_before(graph: onnx.GraphProto, ahead: dict[int, list[onnx.NodeProto]]) -> None:
    """Insert new nodes before the nodes with these ids."""
    nodes = [new for node in graph.node for new in [*ahead.get(id(node), ()), node]]
    copies = [helper.make_node("Identity", [], []) for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
