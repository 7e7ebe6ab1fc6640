"""Large matrix products with a bias, on codes, as one Gemm over rows: no pass over the result to add the bias.

ONNX Runtime adds an int32 bias inside QGemm, where a MatMul of three axes on codes leaves an Add. Rows are a view:
Reshape copies nothing. Where the result is split in two halves right away (GEGLU, Shazeer 2020), each half is a Gemm of
its own, and the split, which is a copy, disappears too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from export.onnx.graph import attribute
from export.onnx.quantize.codes import Rewriter

LEAST = 1 << 18  # numbers in a result from which a pass over it takes longer than two Reshapes


@dataclass(frozen=True)
class Rows:
    """One such product: its Add, the Split behind it if there is one, and the rows of a picture."""

    add: onnx.NodeProto
    split: onnx.NodeProto | None
    bias: str
    rows: int

    @property
    def outputs(self) -> list[str]:
        """The results that the rest of the graph uses."""
        return list(self.add.output if self.split is None else self.split.output)


def rows_of(rewriter: Rewriter, node: onnx.NodeProto) -> Rows | None:
    """The product that a MatMul belongs to; None where it is small, has no bias, or feeds a node that fuses with it."""
    users = rewriter.users.get(node.output[0], [])
    shape = rewriter.shapes.get(node.output[0], [])
    if len(users) != 1 or users[0].op_type != "Add" or len(shape) != 3 or shape[1] * shape[2] < LEAST:
        return None
    add = users[0]
    bias = next((name for name in add.input if name != node.output[0] and name in rewriter.weights), None)
    if bias is None or list(rewriter.weights[bias].dims) != [shape[2]]:
        return None
    behind = rewriter.users.get(add.output[0], [])
    if [user.op_type for user in behind] == ["Gelu"]:
        return None  # ONNX Runtime has one operator for both
    return Rows(add, behind[0] if halves(behind, shape) else None, bias, shape[1])


def halves(behind: list[onnx.NodeProto], shape: list[int]) -> bool:
    """Whether a result goes into one Split of its last axis in two, and nowhere else."""
    return (
        len(behind) == 1
        and behind[0].op_type == "Split"
        and len(behind[0].output) == 2
        and shape[2] % 2 == 0
        and attribute(behind[0], "axis") in (-1, 2)
    )


def static_rows(rewriter: Rewriter, node: onnx.NodeProto, found: Rows) -> None:
    """Add a product's Gemms in place of its MatMul, Add and Split."""
    given, step = rewriter.activation(node, rows=True)
    weight, bias = rewriter.array(node.input[1]), rewriter.array(found.bias)
    width = weight.shape[1] // len(found.outputs)
    for i, output in enumerate(found.outputs):
        part = slice(i * width, (i + 1) * width)
        name = f"{node.name}_{i}" if found.split is not None else node.name
        codes, scales = rewriter.static_codes(f"{node.input[1]}.{i}", weight[:, part], 1)
        shift = rewriter.static_bias(f"{name}.bias", bias[part], scales, step)
        product = f"{output}.rows"
        rewriter.nodes.append(onnx.helper.make_node("Gemm", [given, codes, shift], [product], name=name))
        shape = rewriter.store(f"{name}.shape", np.array([-1, found.rows, width], np.int64))
        rewriter.add("Reshape", [product, shape], output)
    rewriter.skipped.add(found.add.name)
    if found.split is not None:
        rewriter.skipped.add(found.split.name)
