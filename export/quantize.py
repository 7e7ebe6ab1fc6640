"""Which layers of a bundle become 8 bits, and how: chosen by the effect on the picture, then on speed.

Stored in 8 bits: every weight matrix but the first and last convolution of a graph and the time embedding.
Computed in 8 bits: the U-Net's convolutions and linear layers and the decoder's convolutions, class by class,
as long as the pictures stay close; normalization, softmax, attention scores and sums of layers stay float.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx

from export import qdq
from export.calibrate import Feed, Range, pipeline_feeds, ranges
from export.measure import Reference
from export.onnx_graph import initializers
from export.onnx_run import Graphs, network, open_session
from export.qdq import STATIC, WEIGHTS

# Layer classes that are computed in 8 bits, by component; all others only store their weights in 8 bits.
STATIC_CLASSES = {"unet": ("Conv", "MatMul"), "vae_decoder": ("Conv",)}
# Left as they are: an encoder's few weights save little, and one that computes a PCA through large offsets loses all.
FLOAT_COMPONENTS = ("vae_encoder",)
# Parts of node names: small layers that every other layer depends on.
FLOAT_PARTS = ("time_embedding",)  # stay float
STORED_PARTS = ("add_embedding",)  # compute in float
# So do the convolutions of the last residual block: what they lose reaches the output undamped. Measured on the
# sticker U-Net, computing them in 8 bits costs 8 dB, the 73 other convolutions together as much again.
LAST_STORED = {"unet": 3}
# A class goes back to float arithmetic while a picture is further off than this, in dB of PSNR.
GOAL_DB = 35.0

LayerClass = tuple[str, str]  # (component, op)


@dataclass
class Quantizer:
    """The fp32 graphs of one checkpoint with what is needed to rewrite any choice of their layers."""

    graphs: Graphs
    reference: Reference
    feeds: dict[str, list[Feed]] = field(default_factory=dict)
    known: dict[str, dict[str, Range]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sessions = {name: open_session(model) for name, model in self.graphs.items()}
        self.feeds = pipeline_feeds(self.reference.source, network(sessions))

    def quantized(self, classes: set[LayerClass]) -> dict[str, onnx.ModelProto]:
        """All graphs in 8 bits, the layers of `classes` with 8-bit arithmetic."""
        ops = {name: {op for part, op in classes if part == name} for name in self.graphs}
        return {name: self.component(name, ops[name]) for name in self.graphs}

    def component(self, name: str, static_ops: set[str]) -> onnx.ModelProto:
        """One graph in 8 bits, or untouched where 8 bits would ruin it."""
        if name in FLOAT_COMPONENTS:
            return self.graphs[name]
        plan = plan_of(name, self.graphs[name], static_ops)
        if name not in self.known:
            everything = plan_of(name, self.graphs[name], set(STATIC_CLASSES.get(name, ())))
            tensors = qdq.activations(self.graphs[name], everything)
            self.known[name] = ranges(self.graphs[name], tensors, self.feeds[name]) if tensors else {}
        return qdq.rewrite(self.graphs[name], plan, self.known[name])

    def worst_db(self, graphs: Graphs) -> float:
        """PSNR of the worst one-step picture."""
        sessions = {name: open_session(model) for name, model in graphs.items()}
        return min(self.reference.pictures_db(network(sessions)))


def quantize(graphs: Graphs, reference: Reference, goal_db: float = GOAL_DB) -> tuple[Graphs, dict[str, Any]]:
    """The graphs in 8 bits, and notes for the manifest: what is computed in 8 bits and what was given up.

    While the worst picture is below `goal_db`, the class whose return to float helps most is returned.
    """
    quantizer = Quantizer(graphs, reference)
    classes = {(part, op) for part, ops in STATIC_CLASSES.items() for op in ops if part in graphs}
    given_up: list[dict[str, Any]] = []
    chosen = quantizer.quantized(classes)
    psnr = quantizer.worst_db(chosen)
    while psnr < goal_db and classes:
        psnr, dropped, chosen = max(
            (trial(quantizer, classes, item) for item in sorted(classes)), key=lambda found: found[0]
        )
        classes.remove(dropped)
        given_up.append({"layers": " ".join(dropped), "worst_picture_db_without": round(psnr, 2)})
    return chosen, notes(classes, given_up, goal_db)


def trial(
    quantizer: Quantizer, classes: set[LayerClass], without: LayerClass
) -> tuple[float, LayerClass, dict[str, onnx.ModelProto]]:
    """(worst PSNR, the class left out, the graphs) when `without` computes in float."""
    graphs = quantizer.quantized(classes - {without})
    return quantizer.worst_db(graphs), without, graphs


def notes(classes: set[LayerClass], given_up: list[dict[str, Any]], goal_db: float) -> dict[str, Any]:
    """What a reader of the manifest should know of the 8-bit layers."""
    return {
        "int8": {
            "computed_in_8_bits": [" ".join(item) for item in sorted(classes)],
            "weights_only": "all other weights but the first and last convolutions and the time embedding",
            "returned_to_float": given_up,
            "goal_db": goal_db,
        }
    }


def plan_of(component: str, model: onnx.ModelProto, static_ops: set[str]) -> dict[str, str]:
    """Node name -> "static" or "weights" for the layers of a graph that become 8 bits."""
    weights = initializers(model.graph)
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    spared = {*convs[:1], *convs[-1:]}
    plan = {}
    near_output = set(convs[-1 - LAST_STORED.get(component, 0) : -1])
    for node in model.graph.node:
        table = node.input[0 if node.op_type == "Gather" else 1] if len(node.input) > 1 else ""
        known = (WEIGHTS, node.op_type) in qdq.REWRITES and is_matrix(weights.get(table))
        if not known or node.name in spared or any(part in node.name for part in FLOAT_PARTS):
            continue
        stored = node.name in near_output or any(part in node.name for part in STORED_PARTS)
        stored = stored or node.op_type not in static_ops
        plan[node.name] = WEIGHTS if stored else STATIC
    return plan


def is_matrix(tensor: onnx.TensorProto | None) -> bool:
    """Whether a stored tensor is a float weight of two or more axes."""
    return tensor is not None and len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT
