"""Rewrites that save passes over feature maps, a folded timestep, and the whole pipeline in one graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DConditionModel
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

import runtime
from export.checks.measure import psnr_db
from export.graphs import TextEncoderGraph, UNetGraph, attention_as, fused_attention, plain_attention
from export.onnx.export import export_onnx
from export.onnx.fold_timestep import folded_timestep
from export.onnx.options import FUSED, Options
from export.onnx.passes import optimize
from export.onnx.quantize.planner import copied
from export.onnx.run import open_session
from export.onnx.trace import Port, Tracer, trace
from export.source import open_source
from runtime.errors import UserError
from runtime.ort.providers import session_options
from tests.support.tiny import SMALL, copied_graph, small_checkpoint, small_graphs
from tests.test_export_quantize import no_distance

RNG = np.random.default_rng(0)
PROMPTS, SEEDS = ["a fox", "the cat in a box"], [3, 4]


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(nodes, inputs: dict, output: list, stored: dict) -> onnx.ModelProto:
    """A graph; every tensor between its nodes is noted with the shape that shape inference finds."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    graph = helper.make_graph(nodes, "g", ports, [result], [numpy_helper.from_array(v, k) for k, v in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def same_after(model: onnx.ModelProto, feed: dict) -> onnx.ModelProto:
    """The optimized model, once it has been seen to give what the model gave."""
    before = open_session(model).run(None, feed)[0]
    optimize(model)
    np.testing.assert_allclose(open_session(model).run(None, feed)[0], before, rtol=2e-5, atol=2e-6)
    return model


def test_exact_gelu_becomes_one_operator() -> None:
    nodes = [
        helper.make_node("Div", ["x", "root"], ["a"], name="m/Div"),
        helper.make_node("Erf", ["a"], ["b"], name="m/Erf"),
        helper.make_node("Add", ["b", "one"], ["c"], name="m/Add"),
        helper.make_node("Mul", ["half", "c"], ["d"], name="m/Mul"),
        helper.make_node("Mul", ["x", "d"], ["y"], name="m/Mul_2"),
    ]
    stored = {"root": np.array(2**0.5, np.float32), "one": np.array(1, np.float32), "half": np.array(0.5, np.float32)}
    model = same_after(model_of(nodes, {"x": [3, 40]}, [3, 40], stored), {"x": values(3, 40)})
    assert ops(model) == {"Gelu": 1}


def scale_and_shift(scale: list[int]) -> onnx.ModelProto:
    """(x * w + b) * (1 + s) + t."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="n/Mul"),
        helper.make_node("Add", ["a", "b"], ["c"], name="n/Add"),
        helper.make_node("Add", ["s", "one"], ["s1"], name="r/Add"),
        helper.make_node("Mul", ["c", "s1"], ["d"], name="r/Mul"),
        helper.make_node("Add", ["d", "t"], ["y"], name="r/Add_2"),
    ]
    stored = {"w": values(4, 1, 1), "b": values(4, 1, 1), "one": np.array(1, np.float32)}
    return model_of(nodes, {"x": [2, 4, 5, 5], "s": scale, "t": scale}, [2, 4, 5, 5], stored)


def test_a_norms_and_an_embeddings_scales_become_one() -> None:
    feed = {"x": values(2, 4, 5, 5), "s": values(2, 4, 1, 1), "t": values(2, 4, 1, 1)}
    model = same_after(scale_and_shift([2, 4, 1, 1]), feed)
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in graph.value_info}
    large = [node for node in graph.node if sizes.get(node.output[0], [2, 4, 5, 5]) == [2, 4, 5, 5]]
    assert len(large) == 2


def test_a_scale_of_every_pixel_is_left_alone() -> None:
    feed = {"x": values(2, 4, 5, 5), "s": values(2, 4, 5, 5), "t": values(2, 4, 5, 5)}
    assert len(same_after(scale_and_shift([2, 4, 5, 5]), feed).graph.node) == 5


def test_a_constant_after_a_convolution_becomes_its_bias() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="c/Conv"),
        helper.make_node("Add", ["a", "t"], ["y"], name="r/Add"),
    ]
    stored = {"w": values(3, 2, 1, 1), "b": values(3), "t": values(1, 3, 1, 1)}
    model = same_after(model_of(nodes, {"x": [1, 2, 4, 4]}, [1, 3, 4, 4], stored), {"x": values(1, 2, 4, 4)})
    assert ops(model) == {"Conv": 1}


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_fused_attention_computes_what_plain_attention_computes(component: str) -> None:
    source = open_source(str(small_checkpoint()))
    fused = small_graphs()[component]
    assert ops(fused)["MultiHeadAttention"] >= 2
    if component == "text_encoder":
        feed: dict[str, np.ndarray] = {"input_ids": source.encode(["a fox", "the cat"])}
        plain: torch.nn.Module = TextEncoderGraph(source.pipe.text_encoder, plain_attention)
    else:
        feed = {
            "sample": source.noise([1, 2]),
            "timestep": np.array(999, np.float32),
            "encoder_hidden_states": values(2, 77, SMALL.hidden),
        }
        plain = UNetGraph(source.pipe.unet)
    with torch.no_grad(), attention_as(source.pipe.unet, plain_attention):
        found = plain(*map(torch.from_numpy, feed.values()))
    expected = (found if isinstance(found, torch.Tensor) else found[0]).numpy()
    np.testing.assert_allclose(open_session(fused).run(None, feed)[0], expected, rtol=1e-4, atol=1e-5)


def unet_of_one_level() -> UNet2DConditionModel:
    """One that embeds time alone."""
    torch.manual_seed(0)
    made = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    return made.eval()


@torch.no_grad()
def test_a_folded_timestep_is_that_timestep() -> None:
    """Where time alone is embedded its projections are constants, and each convolution's bias holds them."""
    unet = unet_of_one_level()
    feed = {"sample": values(2, 4, 8, 8), "encoder_hidden_states": values(2, 77, 16)}
    ports = [
        Port("sample", torch.from_numpy(feed["sample"])),
        Port("timestep", torch.tensor(999.0), False),
        Port("encoder_hidden_states", torch.from_numpy(feed["encoder_hidden_states"])),
    ]
    with attention_as(unet, plain_attention), folded_timestep(unet, 999):
        model = trace(UNetGraph(unet), ports, ["out_sample"])
    optimize(model)
    assert not ops(model).keys() & {"Sin", "Cos", "Gemm"}
    assert not any("time_emb" in node.name for node in model.graph.node)
    given = torch.from_numpy(feed["sample"]), 999, torch.from_numpy(feed["encoder_hidden_states"])
    expected = unet(*given)
    for timestep in (999, 1):
        found = open_session(model).run(None, feed | {"timestep": np.array(timestep, np.float32)})[0]
        np.testing.assert_allclose(found, expected.sample.numpy(), rtol=1e-3, atol=1e-4)
    assert type(unet.time_embedding).__name__ == "TimestepEmbedding"  # put back


@pytest.fixture(scope="module")
def fused_bundle(tmp_path_factory) -> Callable[[str], Path]:
    """Precision -> a bundle with its fused graph, made once; the U-Net, whose timestep is folded, is traced once."""
    unets: list[onnx.ModelProto] = []
    tracers_own = Tracer.graph

    def traced_once(tracer: Tracer, component: str) -> onnx.ModelProto:
        if component != "unet":
            return copied_graph(tracer, component)
        if not unets:
            unets.append(tracers_own(tracer, component))
        return copied(unets[0])

    @cache
    def made(precision: str) -> Path:
        out = tmp_path_factory.mktemp(precision) / "bundle"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("export.onnx.export.measure_distance", no_distance)
            patch.setattr(Tracer, "graph", traced_once)
            export_onnx(open_source(str(small_checkpoint())), out, Options(precision, fold_timestep=True, fused=True))
        return out

    return made


@pytest.fixture
def folded(fused_bundle: Callable[[str], Path]) -> Path:
    return fused_bundle("int8")


@pytest.fixture
def folded_fp32(fused_bundle: Callable[[str], Path]) -> Path:
    return fused_bundle("fp32")


def test_a_folded_bundle_draws_in_one_step_and_refuses_more(folded: Path) -> None:
    pipe = runtime.load(folded, provider="cpu")
    assert pipe("a fox", seed=3)[0].size == (64, 64)
    with pytest.raises(ValueError, match="num_inference_steps"):
        pipe("a fox", seed=3, num_inference_steps=2)


def fused_pictures(folder: Path) -> np.ndarray:
    """u8[2,64,64,3]: two pictures by the fused graph, opened as the runtime opens graphs."""
    source = open_source(str(small_checkpoint()))
    session = InferenceSession(str(folder / FUSED), session_options("cpu", 1, 0), providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == ["input_ids", "noise"]
    (image,) = session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 64, 64, 3])
    ids, noise = source.encode(PROMPTS), source.noise(SEEDS)
    return session.run(None, {"input_ids": ids, "noise": noise})[0]


def runtimes_pictures(folder: Path) -> np.ndarray:
    """The same two by the runtime, network after network."""
    pictures = runtime.load(folder, provider="cpu", threads=1)(PROMPTS, seed=SEEDS)
    return np.stack([np.asarray(picture) for picture in pictures])


def furthest(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_the_fused_graph_gives_the_runtimes_pixels(folded_fp32: Path) -> None:
    found, expected = fused_pictures(folded_fp32), runtimes_pictures(folded_fp32)
    assert furthest(found, expected) <= 1 and psnr_db(expected / 255, found / 255, 1.0) > 50


def test_the_fused_int8_graph_computes_what_the_runtime_computes(folded: Path, monkeypatch) -> None:
    """Node by node, one picture at a time: with ONNX Runtime's own rewrites off, which differ across the seams."""

    def as_written(provider: str, threads: int, stored: int) -> SessionOptions:
        options = session_options(provider, threads, stored)
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    monkeypatch.setattr("runtime.ort.providers.session_options", as_written)
    expected = runtimes_pictures(folded)
    session = InferenceSession(str(folded / FUSED), as_written("cpu", 1, 0), providers=["CPUExecutionProvider"])
    source = open_source(str(small_checkpoint()))
    ids, noise = source.encode(PROMPTS), source.noise(SEEDS)
    for i, picture in enumerate(expected):
        (found,) = session.run(None, {"input_ids": ids[i : i + 1], "noise": noise[i : i + 1]})[0]
        assert furthest(found, picture) <= 1


def test_the_fused_int8_graph_is_closer_to_the_runtime_than_int8_is_to_fp32(folded: Path, folded_fp32: Path) -> None:
    """ONNX Runtime folds the schedule's factor into the last convolution of the U-Net, and sums in another order for
    another batch or number of threads: the latents differ by 1e-6. That moves single activations over a rounding
    boundary, by one whole step of their 8 bits, and the layers after it carry the step on to up to 4 of 255.
    """
    found, expected, exact = fused_pictures(folded), runtimes_pictures(folded), runtimes_pictures(folded_fp32)
    assert furthest(found, expected) < furthest(expected, exact)
    assert psnr_db(expected / 255, found / 255, 1.0) > 50


def test_a_fused_graph_beyond_one_file_is_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("export.onnx.fused.MOST_BYTES", 10_000)
    monkeypatch.setattr(Tracer, "graph", copied_graph)
    with pytest.raises(UserError, match="--fused: .* use a smaller --precision"):
        export_onnx(open_source(str(small_checkpoint())), tmp_path / "out", Options(fused=True))
    assert list(tmp_path.iterdir()) == []


def test_attention_for_tracing_alone_has_the_operators_attributes() -> None:
    class Attend(torch.nn.Module):
        def forward(self, query, key):
            return fused_attention(query, key, key, heads=2, scale=0.5)

    ports = [Port("q", torch.zeros(2, 4, 8)), Port("k", torch.zeros(2, 6, 8))]
    (node,) = trace(Attend(), ports, ["y"]).graph.node
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    assert (node.domain, found["num_heads"], found["scale"], found["unidirectional"]) == ("com.microsoft", 2, 0.5, 0)
