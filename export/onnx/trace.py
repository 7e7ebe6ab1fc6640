"""The fp32 ONNX graphs of a checkpoint, traced one by one."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.graphs import DecoderGraph, EncoderGraph, TextEncoderGraph, UNetGraph, attention_as, fused_attention
from export.onnx.fold_timestep import folded_timestep
from export.onnx.graph import (
    add_initializer,
    attribute,
    drop_unused,
    producers,
    refuse_doubles,
    strip,
    tensor_names,
    unique,
)
from export.onnx.passes import optimize
from export.onnx.waiting import serialized
from export.picture_size import graph_step, side_factor
from export.source import Source
from export.subpixel import fold_upsampling
from export.text import encoded
from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS


class Tracer:
    """Gives the graph of each component; folds the end of the checkpoint's decoder.

    fold_timestep: the U-Net is for the one-step timestep only, whatever timestep it is given. keep: the graphs of a
    model that is not large are kept, and must be copied before they are changed.
    """

    def __init__(self, source: Source, fold_timestep: bool = False, keep: bool = False) -> None:
        self.source, self.fold, self.keep = source, fold_timestep, keep and not source.large
        self.kept: dict[str, onnx.ModelProto] = {}
        fold_upsampling(source.pipe.vae)

    def graph(self, component: str) -> onnx.ModelProto:
        """One graph. UserError with PyTorch's reason when it cannot be traced."""
        if component in self.kept:
            return self.kept[component]
        try:
            model = getattr(self, component)()
        except Exception as error:  # torch.export and its translation raise all kinds of exceptions
            raise UserError(f"PyTorch cannot export the {component} of {self.source.name} to ONNX: {error}") from error
        optimize(model)
        if self.keep:
            self.kept[component] = model
        return model

    def encoder(self, component: str) -> onnx.ModelProto:
        """input_ids -> the outputs of `TextEncoderGraph`."""
        ids = torch.from_numpy(self.source.encode(["a", "b"])[:, :MAX_TOKENS])
        model, every_layer = getattr(self.source.pipe, component), self.source.kind.second_text
        module = TextEncoderGraph(model, fused_attention, component, every_layer)
        return trace(module, [Port("input_ids", ids)], module.outputs, self.source.large)

    def text_encoder(self) -> onnx.ModelProto:
        """input_ids -> last_hidden_state, pooler_output, and of SDXL the states of every layer."""
        return self.encoder("text_encoder")

    def text_encoder_2(self) -> onnx.ModelProto:
        """input_ids -> text_embeds, last_hidden_state and the states of every layer."""
        return self.encoder("text_encoder_2")

    def unet(self) -> onnx.ModelProto:
        """sample, timestep, encoder_hidden_states -> out_sample; SDXL's takes text_embeds and time_ids too."""
        pipe = self.source.pipe
        with torch.no_grad():
            text = encoded(self.source, torch.from_numpy(self.source.encode(["", "a"])))
            given = text.inputs(self.source.conditioning.sizes(self.source.image_size))
        timestep = self.source.steps(1)[0].timestep
        ports = [
            self.sided("sample", self.source.latent_shape, graph_step(pipe.unet.config)),
            Port("timestep", torch.tensor(float(timestep)), batched=False),
            *(Port(name, example) for name, example in given.items()),
        ]
        folded = folded_timestep(pipe.unet, timestep) if self.fold else nullcontext()
        with attention_as(pipe.unet, fused_attention), folded:
            return trace(UNetGraph(pipe.unet), ports, ["out_sample"], self.source.large)

    def vae_decoder(self) -> onnx.ModelProto:
        """latent_sample -> sample."""
        port = self.sided("latent_sample", self.source.latent_shape, 1)
        return trace(DecoderGraph(self.source.pipe.vae), [port], ["sample"])

    def vae_encoder(self) -> onnx.ModelProto:
        """sample -> latent_sample, or latent_parameters."""
        port = self.sided("sample", (3, *self.source.image_size), side_factor(self.source.pipe.vae.config))
        module = EncoderGraph(self.source.pipe.vae)
        return trace(module, [port], [module.output])

    def sided(self, name: str, shape: tuple[int, int, int], step: int) -> Port:
        """A feature map's input, whose sides are any multiples of `step` where the source has several sizes.

        Its example is then small, and no side is one step long: torch.export would take it for a constant.
        """
        if not self.source.sizes:
            return Port(name, torch.zeros(2, *shape))
        return Port(name, torch.zeros(2, shape[0], 2 * step, 3 * step), step=step)


OPSET = 18  # the oldest opset that has all that these graphs need, so that old loaders read them
MAX_BATCH = 32  # from 64 on, torch.export finds that a guard of its own excludes it, and traces a second time
MAX_STEPS = 512  # of a side
SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Port:
    """A graph input: its name, an example tensor, whether its first axis is the batch, and of what its sides are
    multiples; 0 for sides as in the example.
    """

    name: str
    example: Tensor
    batched: bool = True
    step: int = 0

    def dynamic(self) -> dict[int, Any] | None:
        """The axes of any length, for torch.export."""
        if not self.batched:
            return None
        axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
        if self.step:
            for axis, side in ((2, "rows"), (3, "columns")):
                axes[axis] = self.step * torch.export.Dim(side, min=1, max=MAX_STEPS)
        return axes


def trace(module: nn.Module, inputs: Sequence[Port], outputs: Sequence[str], waiting: bool = False) -> onnx.ModelProto:
    """The ONNX graph of `module`, with a dynamic batch. waiting: large weights are not copied, see `onnx.waiting`.

    The examples' batch must be 2 or more: torch.export treats an axis of length 1 as constant.
    """
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(port.example for port in inputs),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=list(outputs),
            dynamic_shapes=tuple(port.dynamic() for port in inputs),
        )
    assert program is not None  # with dynamo=True there is always one
    model: onnx.ModelProto = serialized(program) if waiting else program.model_proto
    tidy(model)
    name_sides(model)
    return model


@contextmanager
def quiet(logger: str = "torch.onnx") -> Iterator[None]:
    """Keep a converter's chatter off stderr: warnings, and log entries below an error."""
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
    """In place: fix reshapes, name nodes and weights, drop unused parts and the tracer's metadata."""
    fix_reshapes(model.graph)
    name_parts(model.graph)
    drop_unused(model.graph)
    strip(model)
    refuse_doubles(model.graph, "tracing")


def name_sides(model: onnx.ModelProto) -> None:
    """In place: open sides of inputs and outputs are called height and width, after which clients look."""
    for port in [*model.graph.input, *model.graph.output]:
        dims = port.type.tensor_type.shape.dim
        for dim, name in zip(dims[2:], ("height", "width"), strict=False):
            if len(dims) == 4 and not dim.dim_value:
                dim.dim_param = f"{port.name}_{name}"


def fix_reshapes(graph: onnx.GraphProto) -> None:
    """Replace a reshape to a computed shape by one to a constant shape, with -1 for the batch."""
    dims = {
        info.name: [dim.dim_value or -1 for dim in info.type.tensor_type.shape.dim]
        for info in [*graph.value_info, *graph.input]
    }
    made, taken = producers(graph), tensor_names(graph)
    for i, node in enumerate(graph.node):
        source = made.get(node.input[1]) if node.op_type == "Reshape" else None
        if source is None or source.op_type != "Shape" or (source.attribute and attribute(source, "end")):
            continue
        target = dims.get(source.input[0], [])
        if target and target.count(-1) <= 1:
            name = unique(f"shape_{i}", taken)
            node.input[1] = add_initializer(graph, name, np.array(target, np.int64))


def name_parts(graph: onnx.GraphProto) -> None:
    """Name each node `path.of.module/Op` and each unnamed weight `path.of.module.weight`."""
    taken: set[str] = set()
    weights = {tensor.name for tensor in graph.initializer}
    tensors = tensor_names(graph)
    uses = [name for node in graph.node for name in node.input]
    renamed: dict[str, str] = {}
    for node in graph.node:
        scope = scope_of(node)
        node.name = unique(f"{scope}/{node.op_type}", taken)
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight in weights and weight.startswith("val_") and uses.count(weight) == 1:
            renamed[weight] = unique(f"{scope}.weight", tensors)
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
