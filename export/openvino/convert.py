"""From a checkpoint's modules to OpenVINO models, with the names, types and shapes that OpenVINO GenAI feeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs import DecoderGraph, EncoderGraph, TextEncoderGraph, UNetGraph
from export.onnx.trace import quiet
from export.openvino.run import load_openvino
from export.source import Source
from export.subpixel import fold_upsampling
from export.text import encoded
from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS

ANY = -1  # an axis of any length


@dataclass(frozen=True)
class Port:
    """A model's input: its name, an example to trace with, and its shape, with ANY where the length is flexible."""

    name: str
    example: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One model of the export."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]


def parts(source: Source) -> Iterator[Part]:
    """The modules of a checkpoint, smallest first; of any batch and any picture size. Folds the end of its decoder."""
    pipe = source.pipe
    fold_upsampling(pipe.vae)
    channels = source.latent_shape[0]
    latents = torch.zeros(1, *source.latent_shape)
    sizes = (ANY, channels, ANY, ANY)
    yield Part("vae_decoder", DecoderGraph(pipe.vae), (Port("latent_sample", latents, sizes),), ("sample",))
    picture = (Port("sample", torch.zeros(1, 3, *source.image_size), (ANY, 3, ANY, ANY)),)
    encoder = EncoderGraph(pipe.vae)
    yield Part("vae_encoder", encoder, picture, (encoder.output,))
    ids = torch.from_numpy(source.encode([""]))
    for name in source.kind.encoders:
        text = TextEncoderGraph(getattr(pipe, name), component=name, every_layer=source.kind.second_text)
        yield Part(name, text, (Port("input_ids", ids[:, :MAX_TOKENS], (ANY, MAX_TOKENS)),), text.outputs)
    with torch.no_grad():
        told = encoded(source, ids).inputs(source.conditioning.sizes(source.image_size))
    inputs = (
        Port("sample", latents, sizes),
        Port("timestep", torch.tensor([source.steps(1)[0].timestep]), (1,)),
        *(Port(name, example, (ANY, *example.shape[1:])) for name, example in told.items()),
    )
    yield Part("unet", UNetGraph(pipe.unet), inputs, ("out_sample",))


def convert(part: Part) -> Any:
    """An openvino.Model of one module, whose weights are the module's own memory.

    It is traced: torch.export takes three times as long, gives the same speed, and fixes the picture's size. Attention
    becomes ScaledDotProductAttention, however it was written. Raises UserError with OpenVINO's reason.
    """
    openvino = load_openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    examples = tuple(port.example for port in part.inputs)
    try:
        with quiet("openvino"), torch.no_grad():
            unchecked = {"check_trace": False}  # the comparison checks it: the tracer would run the module twice more
            traced = TorchScriptPythonDecoder(part.module.eval(), example_input=examples, trace_kwargs=unchecked)
            model = openvino.convert_model(traced, example_input=examples)
    except Exception as error:  # torch.jit and the front end raise all kinds of exceptions
        raise UserError(f"OpenVINO cannot convert the {part.name}: {error}") from error
    shapes = {}
    for found, port in zip(model.inputs, part.inputs, strict=True):
        found.get_tensor().set_names({port.name})
        shapes[port.name] = openvino.PartialShape(list(port.shape))
    for found, name in zip(model.outputs, part.outputs, strict=True):
        found.get_tensor().set_names({name})
    model.reshape(shapes)
    fold_offsets(model)
    return model


def fold_offsets(model: Any) -> None:
    """Move the 1 of diffusers' norm(x) * (1 + scale) + shift into the bias of the layer that gives scale and shift.

    It saves one operator, and the CPU plugin (2026.4.1) crashes compiling a product of a group norm and such a sum when
    all shapes are static, as after GenAI's reshape().
    """
    openvino = load_openvino()
    for product in model.get_ordered_ops():
        if product.get_type_name() != "Multiply":
            continue
        norm, total = (product.input_value(index).get_node() for index in (0, 1))
        if norm.get_type_name() != "GroupNormalization" or not adds_one(total):
            continue
        layer = total.input_value(0).get_node().input_value(0).get_node()
        while layer.get_type_name() == "Unsqueeze":
            layer = layer.input_value(0).get_node()
        bias = layer.input_value(1).get_node().get_data().copy()
        bias[..., : bias.shape[-1] // 2] += 1
        layer.input(1).replace_source_output(openvino.opset13.constant(bias).output(0))
        product.input(1).replace_source_output(total.input_value(0))


def adds_one(node: Any) -> bool:
    """Whether a node adds the constant 1 to the first half of something."""
    if node.get_type_name() != "Add" or node.input_value(0).get_node().get_type_name() != "VariadicSplit":
        return False
    constant = node.input_value(1).get_node()
    return constant.get_type_name() == "Constant" and bool(np.all(constant.get_data() == 1))
