"""Trace a module into a small ONNX graph, named after the module's own parts and free of shape arithmetic."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

OPSET = 18  # the oldest that has LayerNormalization and all else these graphs need: read by old loaders too
MAX_BATCH = 64
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
SCOPES = "pkg.torch.onnx.name_scopes"

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Port:
    """A graph input: its name, an example tensor, and whether the first axis is the batch."""

    name: str
    example: Tensor
    batched: bool = True


def trace(module: nn.Module, inputs: Sequence[Port], outputs: Sequence[str]) -> onnx.ModelProto:
    """The ONNX graph of `module`, with a dynamic batch.

    The examples' batch must be 2 or more: torch.export takes an axis of 1 as constant.
    """
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(port.example for port in inputs),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} if port.batched else None for port in inputs),
        )
    assert program is not None  # with dynamo=True there always is one
    model: onnx.ModelProto = program.model_proto
    tidy(model)
    return model


@contextmanager
def quiet(logger: str = "torch.onnx") -> Iterator[None]:
    """Keep a converter's remarks about itself off stderr: warnings, and what it logs below an error."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def tidy(model: onnx.ModelProto) -> None:
    """In place: fix reshapes, name nodes and weights, drop what is unused and the tracer's notes."""
    fix_reshapes(model.graph)
    name_parts(model.graph)
    drop_unused(model.graph)
    strip(model)


def fix_reshapes(graph: onnx.GraphProto) -> None:
    """Replace a reshape to another tensor's computed shape by one to constants, with -1 for the batch."""
    dims = {
        info.name: [dim.dim_value or -1 for dim in info.type.tensor_type.shape.dim]
        for info in [*graph.value_info, *graph.input]
    }
    made = producers(graph)
    for i, node in enumerate(graph.node):
        source = made.get(node.input[1]) if node.op_type == "Reshape" else None
        if source is None or source.op_type != "Shape" or source.attribute and attribute(source, "end"):
            continue
        target = dims.get(source.input[0], [])
        if target and target.count(-1) <= 1:
            name = f"shape_{i}"
            add_initializer(graph, name, np.array(target, np.int64))
            node.input[1] = name


def name_parts(graph: onnx.GraphProto) -> None:
    """Name each node `path.of.module/Op` and each unnamed weight `path.of.module.weight`."""
    taken: set[str] = set()
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    renamed: dict[str, str] = {}
    for node in graph.node:
        scope = scope_of(node)
        node.name = unique(f"{scope}/{node.op_type}", taken)
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight in weights and weight.startswith("val_") and uses.count(weight) == 1:
            renamed[weight] = unique(f"{scope}.weight", taken | weights.keys())
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)


def scope_of(node: onnx.NodeProto) -> str:
    """The path of the module that a node came from, "graph" where the tracer did not say."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes: list[str] = ast.literal_eval(notes.get(SCOPES, "[]"))
    return next((scope for scope in reversed(scopes[:-1]) if scope and not scope.startswith("_")), "graph")


def unique(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... where it is taken already; the answer is taken from then on."""
    answer, n = name, 1
    while answer in taken:
        n += 1
        answer = f"{name}_{n}"
    taken.add(answer)
    return answer


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
    for i in reversed(range(len(graph.initializer))):  # one by one: to make the list anew would copy every weight
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]


def strip(model: onnx.ModelProto) -> None:
    """Drop the tracer's notes: stack traces, the machine's paths. Types and shapes stay until the file is written."""
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
    """Tensor name -> the nodes that take it; of an output of the graph, one more that is no node of it."""
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


def attribute(node: onnx.NodeProto, name: str) -> object | None:
    """A node's attribute as a Python value, None where it is not given."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)  # type: ignore[no-any-return]
    return None


def declare_microsoft(model: onnx.ModelProto) -> None:
    """Name ONNX Runtime's own operators among the model's imports where it uses them."""
    domains = {opset.domain for opset in model.opset_import}
    if MICROSOFT not in domains and any(node.domain == MICROSOFT for node in model.graph.node):
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
