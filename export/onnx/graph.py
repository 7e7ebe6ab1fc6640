"""Tools for ONNX graphs: cleaning up, looking up, adding constants."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from runtime.errors import UserError

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
Array = npt.NDArray[np.generic]


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and weights that no output needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for i in reversed(range(len(graph.initializer))):  # one by one: rebuilding the list would copy every weight
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]


def strip(model: onnx.ModelProto) -> None:
    """Drop the tracer's metadata: stack traces, this machine's paths. Types and shapes stay until writing."""
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""
    graph.name = "graph"
    model.producer_name, model.producer_version = "addkit", ""


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Tensor name -> the node that makes it."""
    return {name: node for node in graph.node for name in node.output}


def users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor name -> the nodes that use it; outputs of the graph have one more entry that is not a node."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    for output in graph.output:
        found.setdefault(output.name, []).append(onnx.NodeProto(op_type="Output"))
    return found


def initializers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensor name -> the stored tensor."""
    return {tensor.name: tensor for tensor in graph.initializer}


def add_initializer(graph: onnx.GraphProto, name: str, value: Array) -> str:
    """Store an array in the graph under `name`; returns the name."""
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def unique(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... where it is already taken; marks the result as taken."""
    answer, n = name, 1
    while answer in taken:
        n += 1
        answer = f"{name}_{n}"
    taken.add(answer)
    return answer


def node_names(graph: onnx.GraphProto) -> set[str]:
    """The names of a graph's nodes."""
    return {node.name for node in graph.node}


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all tensors of a graph: given, stored and computed."""
    return set(_tensors(graph))


def refuse_doubles(graph: onnx.GraphProto, done: str) -> None:
    """Raise UserError when a rewrite left two nodes, or two tensors, of one name, which no engine loads.

    done: what was done to the graph, for the message.
    """
    nodes = [node.name for node in graph.node if node.name]
    for what, names in (("nodes", nodes), ("tensors", _tensors(graph))):
        double = next((name for name, count in Counter(names).items() if count > 1), None)
        if double is not None:
            raise UserError(f"{done} gave two {what} the name {double}: please report it with the config.json files")


def _tensors(graph: onnx.GraphProto) -> list[str]:
    """Names of given, stored and computed tensors; an input may have a stored default, an output may have no name."""
    stored = [tensor.name for tensor in graph.initializer]
    given = [port.name for port in graph.input if port.name not in set(stored)]
    return [*given, *stored, *(name for node in graph.node for name in node.output if name)]


def attribute(node: onnx.NodeProto, name: str) -> object | None:
    """A node's attribute as a Python value, None where it is not given."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)  # type: ignore[no-any-return]
    return None


def declare_microsoft(model: onnx.ModelProto) -> None:
    """Add ONNX Runtime's operator domain to the model's imports where it uses one."""
    domains = {opset.domain for opset in model.opset_import}
    if MICROSOFT not in domains and any(node.domain == MICROSOFT for node in model.graph.node):
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
