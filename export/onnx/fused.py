"""One graph for a whole one-step picture: token ids and noise in, pixels out, for programs that embed a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from export.onnx.graph import refuse_doubles
from export.source import Source
from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS

MOST_BYTES = 2_000_000_000  # the largest file that protobuf can read


def fused(source: Source, graphs: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """input_ids i64[B,77], noise f32[B,C,h,w] -> image u8[B,H,W,3]; SDXL's second tokenizer has input_ids_2.

    Raises UserError when the weights exceed what one file can hold.
    """
    names = source.conditioning.required
    total = sum(len(tensor.raw_data) for name in names for tensor in graphs[name].graph.initializer)
    if total > MOST_BYTES:
        raise UserError(f"--fused: {total / 1e9:.1f} GB of weights, beyond one file's 2 GB: use a smaller --precision")
    models = {name: lean(graphs[name]) for name in names}
    models["unet"] = at_timestep(models["unet"], source.steps(1)[0].timestep)
    made, told = texts(source, models)
    made = joined(made, None, models["unet"], "unet", told, ["unet.out_sample"])
    made = joined(made, None, to_latents(source, made), None, {"unet.out_sample": "prediction"}, ["latents"])
    links = {"latents": "latent_sample"}
    made = joined(made, None, models["vae_decoder"], "vae_decoder", links, ["vae_decoder.sample"])
    made = joined(made, None, to_pixels(made), None, {"vae_decoder.sample": "decoded"}, ["image"])
    made = with_plain_inputs(made, source)
    refuse_doubles(made.graph, "joining the graphs")
    return made


def texts(source: Source, models: Mapping[str, onnx.ModelProto]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The text encoders in one graph, and which of its outputs are which inputs of the U-Net."""
    first, *others = source.conditioning.text_encoders
    made = compose.add_prefix(models[first.component], f"{first.component}.")
    if not others:
        return made, {f"{first.component}.{first.states}": "encoder_hidden_states"}
    (second,) = others
    given = [f"{one.component}.{name}" for one in (first, second) for name in one.outputs]
    made = joined(made, None, models[second.component], second.component, {}, given)
    links = dict(zip(given, ("states", "states_2", "pooled"), strict=True))
    outputs = ["encoder_hidden_states", "text_embeds", "time_ids"]
    glue = to_conditions(source, made, links)
    return joined(made, None, glue, None, links, outputs), {name: name for name in outputs}


def to_conditions(source: Source, like: onnx.ModelProto, links: Mapping[str, str]) -> onnx.ModelProto:
    """Joined states, pooled text and sizes, as SDXL's U-Net takes them. links: outputs of `like` that it takes."""
    nodes = [
        helper.make_node("Concat", ["states", "states_2"], ["encoder_hidden_states"], name="text/Concat", axis=2),
        helper.make_node("Identity", ["pooled"], ["text_embeds"], name="text/Identity"),
        helper.make_node("Shape", ["pooled"], ["rows"], name="text/Shape", end=1),
        helper.make_node("Concat", ["rows", "one"], ["repeats"], name="text/Concat_2", axis=0),
        helper.make_node("Tile", ["sizes", "repeats"], ["time_ids"], name="text/Tile"),
    ]
    sizes = source.conditioning.sizes(source.image_size)
    numbers = {"sizes": np.array([sizes], np.float32), "one": np.array([1], np.int64)}
    shapes = {
        links[one.name]: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in like.graph.output
    }
    ports = [float_port(name, shape) for name, shape in shapes.items()]
    batch, tokens, width = shapes["states"]
    made = [
        float_port("encoder_hidden_states", [batch, tokens, width + shapes["states_2"][2]]),
        float_port("text_embeds", shapes["pooled"]),
        float_port("time_ids", [batch, len(sizes)]),
    ]
    return model_of(nodes, ports, made, numbers, like)


def joined(
    first: onnx.ModelProto,
    first_name: str | None,
    second: onnx.ModelProto,
    second_name: str | None,
    links: Mapping[str, str],
    outputs: list[str],
) -> onnx.ModelProto:
    """Two graphs in a row; a named graph's tensors get its name as a prefix."""
    prefixes = {"prefix1": first_name and f"{first_name}.", "prefix2": second_name and f"{second_name}."}
    made: onnx.ModelProto = compose.merge_models(first, second, io_map=list(links.items()), outputs=outputs, **prefixes)
    return made


def lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the metadata on which merged models would have to agree."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    del copy.metadata_props[:]
    return copy


def at_timestep(model: onnx.ModelProto, timestep: float) -> onnx.ModelProto:
    """The U-Net with its timestep stored instead of given."""
    graph = model.graph
    inputs = [port for port in graph.input if port.name != "timestep"]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.append(numpy_helper.from_array(np.array(timestep, np.float32), "timestep"))
    return model


def to_latents(source: Source, like: onnx.ModelProto) -> onnx.ModelProto:
    """The scheduler's one step, such as alpha x - sigma v, divided by the scaling factor: the decoder's input."""
    (step,) = source.steps(1)
    (of_latents,), (of_output,), scale = step.latents, step.outputs, source.scaling_factor
    shape = ["batch", *source.latent_shape]
    nodes = [
        helper.make_node("Mul", ["noise", "of_noise"], ["kept"], name="x0/Mul"),
        helper.make_node("Mul", ["prediction", "of_prediction"], ["removed"], name="x0/Mul_2"),
        helper.make_node("Sub", ["kept", "removed"], ["latents"], name="x0/Sub"),
    ]
    numbers = {
        "of_noise": np.array(of_latents / scale, np.float32),
        "of_prediction": np.array(-of_output / scale, np.float32),
    }
    ports = [float_port(name, shape) for name in ("noise", "prediction")]
    return model_of(nodes, ports, [float_port("latents", shape)], numbers, like)


def to_pixels(like: onnx.ModelProto) -> onnx.ModelProto:
    """floor(255 x + 0.5) of x = clamp(decoded / 2 + 0.5), channels last: the rounding of runtime.pixels."""
    nodes = [
        helper.make_node("Mul", ["decoded", "half"], ["scaled"], name="pixels/Mul"),
        helper.make_node("Add", ["scaled", "middle"], ["moved"], name="pixels/Add"),
        helper.make_node("Clip", ["moved", "black", "white"], ["clamped"], name="pixels/Clip"),
        helper.make_node("Floor", ["clamped"], ["whole"], name="pixels/Floor"),
        helper.make_node("Transpose", ["whole"], ["last"], name="pixels/Transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["last"], ["image"], name="pixels/Cast", to=TensorProto.UINT8),
    ]
    numbers = {"half": 127.5, "middle": 128.0, "black": 0.0, "white": 255.0}
    sizes = [dim.dim_param or dim.dim_value for dim in like.graph.output[0].type.tensor_type.shape.dim]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [sizes[0], sizes[2], sizes[3], 3])
    stored = {name: np.array(value, np.float32) for name, value in numbers.items()}
    return model_of(nodes, [float_port("decoded", sizes)], [image], stored, like)


def float_port(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    """An f32 input or output."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[Any],
    outputs: list[Any],
    numbers: Mapping[str, Any],
    like: onnx.ModelProto,
) -> onnx.ModelProto:
    """A small model of the same versions as another."""
    stored = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=list(like.opset_import), ir_version=like.ir_version)


def with_plain_inputs(model: onnx.ModelProto, source: Source) -> onnx.ModelProto:
    """The inputs under the names that the docstring of `fused` promises."""
    noise_scale = source.steps(1)[0].noise_scale
    start = "noise" if noise_scale == 1 else "start"
    encoders = source.conditioning.text_encoders
    named = {f"{one.component}.input_ids": f"input_ids{f'_{i}' if i > 1 else ''}" for i, one in enumerate(encoders, 1)}
    plain = named | {"unet.sample": start, "noise": start}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = plain.get(name, name)
    if noise_scale != 1:
        model.graph.initializer.append(numpy_helper.from_array(np.array(noise_scale, np.float32), "noise_scale"))
        model.graph.node.insert(0, helper.make_node("Mul", ["noise", "noise_scale"], ["start"], name="start/Mul"))
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", MAX_TOKENS]) for name in named.values()]
    del model.graph.input[:]
    model.graph.input.extend([*ids, float_port("noise", ["batch", *source.latent_shape])])
    model.producer_name = "addkit"
    return model
