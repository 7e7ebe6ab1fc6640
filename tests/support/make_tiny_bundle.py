"""Writes tests/golden/tiny_bundle: a bundle of a few KB with real graphs and random weights, for the tests.

    python tests/support/make_tiny_bundle.py [FOLDER]

Its picture is 32 high and 40 wide (neither square nor a power of two) and its latents have 5 x 4 x 5 =
100 values (not a multiple of 16), to catch mixed-up axes and torch's special case for such noise. Run once; the
folder is committed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import Manifest, describe_files, write_manifest
from runtime.schedule import alphas_sigmas, trailing_timesteps
from train.clip_vocab import write_tokenizer_files

ROOT = Path(__file__).parents[2]
HOME = ROOT / "tests" / "golden" / "tiny_bundle"
FULL_MERGES = ROOT / "runtime" / "bundles" / "sticker-128" / "tokenizer" / "merges.txt"
MERGES = 400
VOCABULARY = 512 + MERGES + 2
TOKENS, WIDTH, HIDDEN = 77, 8, 12
CHANNELS, HEIGHT, BREADTH = 5, 4, 5
LICENCE = "Apache-2.0"


class Graph:
    """Collects nodes and weights; every node's output is called by its own name."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.RandomState(seed)

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self._random.standard_normal(shape) * scale)

    def save(self, path: Path, inputs: list[Any], outputs: list[Any]) -> None:
        graph = helper.make_graph(self.nodes, path.parent.name, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model.producer_name = "tests/support/make_tiny_bundle.py"
        helper.set_model_props(model, {"name": "tiny", "latent_shape": f"{CHANNELS},{HEIGHT},{BREADTH}"})
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def text_encoder(path: Path) -> None:
    """Each token sees the mean of those up to it: input_ids [B, 77] -> last_hidden_state [B, 77, 8]."""
    graph = Graph(1)
    tokens = graph.node("Gather", graph.random(VOCABULARY, WIDTH), "input_ids")
    placed = graph.node("Add", tokens, graph.random(TOKENS, WIDTH, scale=0.3))
    causal = np.tril(np.ones((TOKENS, TOKENS))) / np.arange(1, TOKENS + 1)[:, None]
    mixed = graph.node("MatMul", graph.constant(causal), placed)
    turned = graph.node("Tanh", graph.node("MatMul", mixed, graph.random(WIDTH, WIDTH)))
    state = graph.node("Add", placed, turned, name="last_hidden_state")
    graph.node("ReduceMean", state, name="pooler_output", axes=[1], keepdims=0)
    outputs = [value("last_hidden_state", ["batch", TOKENS, WIDTH]), value("pooler_output", ["batch", WIDTH])]
    graph.save(path, [value("input_ids", ["batch", TOKENS], TensorProto.INT64)], outputs)


def unet(path: Path) -> None:
    """Two convolutions around a sum of picture, text and time: sample [B, 5, 4, 5] -> out_sample."""
    graph = Graph(2)
    picture = graph.node("Conv", "sample", graph.random(HIDDEN, CHANNELS, 3, 3, scale=0.15), pads=[1, 1, 1, 1])
    text = graph.node("ReduceMean", "encoder_hidden_states", axes=[1], keepdims=0)
    text = graph.node("MatMul", text, graph.random(WIDTH, HIDDEN, scale=0.8))
    angle = graph.node("Mul", graph.node("Reshape", "timestep", graph.constant([1, 1], np.int64)), graph.constant(1e-3))
    time = graph.node("Sin", graph.node("MatMul", angle, graph.random(1, HIDDEN, scale=3)))
    told = graph.node("Unsqueeze", graph.node("Add", text, time), graph.constant([2, 3], np.int64))
    summed = graph.node("Add", picture, told)
    active = graph.node("Mul", summed, graph.node("Sigmoid", summed))
    weight = graph.random(CHANNELS, HIDDEN, 3, 3, scale=0.15)
    graph.node("Conv", active, weight, name="out_sample", pads=[1, 1, 1, 1])
    latents = ["batch", CHANNELS, HEIGHT, BREADTH]
    inputs = [
        value("sample", latents),
        value("timestep", []),
        value("encoder_hidden_states", ["batch", TOKENS, WIDTH]),
    ]
    graph.save(path, inputs, [value("out_sample", latents)])


def vae_decoder(path: Path) -> None:
    """Every latent pixel becomes a tile of 8 x 8: latent_sample [B, 5, 4, 5] -> sample [B, 3, 32, 40]."""
    graph = Graph(3)
    tiles = graph.node("Conv", "latent_sample", graph.random(3 * 64, CHANNELS, 1, 1, scale=0.5))
    pixels = graph.node("DepthToSpace", tiles, blocksize=8)
    smooth = graph.node("Conv", pixels, graph.random(3, 3, 3, 3, scale=0.4), pads=[1, 1, 1, 1])
    graph.node("Tanh", smooth, name="sample")
    inputs = [value("latent_sample", ["batch", CHANNELS, HEIGHT, BREADTH])]
    graph.save(path, inputs, [value("sample", ["batch", 3, 8 * HEIGHT, 8 * BREADTH])])


def vae_encoder(path: Path) -> None:
    """One convolution over tiles of 8 x 8: sample [B, 3, 32, 40] -> latent_sample [B, 5, 4, 5]."""
    graph = Graph(4)
    graph.node("Conv", "sample", graph.random(CHANNELS, 3, 8, 8, scale=0.1), name="latent_sample", strides=[8, 8])
    inputs = [value("sample", ["batch", 3, 8 * HEIGHT, 8 * BREADTH])]
    graph.save(path, inputs, [value("latent_sample", ["batch", CHANNELS, HEIGHT, BREADTH])])


def configs() -> dict[str, dict[str, Any]]:
    """The JSON files with which diffusers and optimum open the folder."""
    part = ["diffusers", "OnnxRuntimeModel"]
    vae = {"_class_name": "AutoencoderTiny", "latent_channels": CHANNELS, "scaling_factor": 1.0}
    vae |= {"block_out_channels": [8, 8, 8, 8], "in_channels": 3, "out_channels": 3}
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": part,
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": part,
            "vae_decoder": part,
            "vae_encoder": part,
        },
        "scheduler/scheduler_config.json": scheduler_config(),
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "vocab_size": VOCABULARY,
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "cross_attention_dim": WIDTH,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "sample_size": HEIGHT,  # diffusers takes one number; its users pass height and width
            "time_cond_proj_dim": None,
        },
        "vae_decoder/config.json": vae,
        "vae_encoder/config.json": vae,
    }


def scheduler_config() -> dict[str, Any]:
    """diffusers' DDIMScheduler as the project uses it."""
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


def levels_of_steps() -> dict[str, list[dict[str, float]]]:
    """Steps by their levels alone, as bundles of addkit 0.2 and before have them."""
    alpha, sigma = alphas_sigmas()
    return {
        str(n): [{"timestep": t, "alpha": float(alpha[t]), "sigma": float(sigma[t])} for t in trailing_timesteps(n)]
        for n in range(1, 5)
    }


def manifest(folder: Path) -> Manifest:
    """The facts of the folder as it lies there."""
    licence = {"what": "random weights", "licence": LICENCE, "source": "tests/support/make_tiny_bundle.py"}
    merges = {"what": "tokenizer merges", "licence": "MIT", "source": "https://github.com/openai/CLIP"}
    files = {name: facts for name, facts in describe_files(folder).items() if name != "end_to_end.json"}
    return Manifest.from_dict(
        {
            "format_version": 1,
            "name": "tiny",
            "precision": "fp32",
            "image_size": [8 * HEIGHT, 8 * BREADTH],
            "latent_shape": [CHANNELS, HEIGHT, BREADTH],
            "prediction_type": "v_prediction",
            "scaling_factor": 1.0,
            "max_tokens": TOKENS,
            "steps": levels_of_steps(),
            "files": files,
            "licences": [licence, merges],
            "training": {},
            "parity": {},
        }
    )


def make(folder: Path) -> None:
    """Writes the whole bundle into `folder`."""
    merges = FULL_MERGES.read_text(encoding="utf-8").split("\n")[1 : MERGES + 1]
    write_tokenizer_files(folder / "tokenizer", merges)
    for part in (text_encoder, unet, vae_decoder, vae_encoder):
        part(folder / part.__name__ / "model.onnx")
    for name, content in configs().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_manifest(folder, manifest(folder))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME)
