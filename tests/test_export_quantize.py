"""8-bit and half-precision graphs: the arithmetic, what ONNX Runtime makes of them, and whole bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export import onnx as exporter
from export import qdq
from export.calibrate import BINS, best_clip, coded, pipeline_feeds, ranges, scale_and_zero
from export.folder import size_mb
from export.half import to_fp16
from export.measure import Reference, psnr_db, torch_network
from export.onnx import export_onnx
from export.onnx_run import network, open_session
from export.prompts import CALIBRATION
from export.qdq import STATIC, STATIC_LIMIT, STORED_LIMIT, WEIGHTS, encode, rewrite
from export.quantize import plan_of, quantize
from export.source import open_source
from tests.tiny import small_checkpoint, small_graphs

RNG = np.random.default_rng(1)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    return Reference(open_source(str(small_checkpoint())))


def graph_of(op: str, weight: np.ndarray, x: list, y: list, bias: np.ndarray | None = None, **attributes):
    """A graph of one layer with a stored weight, between two harmless nodes."""
    stored = [numpy_helper.from_array(weight, "w")]
    inputs = ["h", "w"]
    if bias is not None:
        stored.append(numpy_helper.from_array(bias, "b"))
        inputs.append("b")
    nodes = [
        helper.make_node("Identity", ["x"], ["h"], name="in"),
        helper.make_node(op, inputs, ["z"], name="layer", **attributes),
        helper.make_node("Identity", ["z"], ["y"], name="out"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def fused_ops(model: onnx.ModelProto, path: Path) -> list[str]:
    """The operations that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@given(st.integers(1, 5), st.sampled_from([STATIC_LIMIT, STORED_LIMIT]), st.floats(1e-3, 1e3))
def test_weight_codes_are_within_half_a_step(channels: int, limit: int, size: float) -> None:
    weight = np.random.default_rng(channels).standard_normal((channels, 4, 3)).astype(np.float32) * size
    codes, scales = encode(weight, 0, limit)
    assert codes.dtype == np.int8 and np.abs(codes.astype(int)).max() == limit
    error = np.abs(codes * scales[:, None, None] - weight)
    assert (error <= scales[:, None, None] * 0.5001).all()


def test_static_codes_cannot_saturate_sixteen_bits() -> None:
    assert 2 * 255 * STATIC_LIMIT <= 2**15 - 1


@given(st.floats(-100, 0), st.floats(0.01, 100))
def test_activation_codes_hold_zero_exactly(low: float, high: float) -> None:
    scale, zero = scale_and_zero(low, high)
    assert scale > 0 and 0 <= zero <= 255
    assert coded(np.zeros(1, np.float32), low, high)[0] == 0


def test_clipping_helps_where_there_are_outliers() -> None:
    calm = RNG.standard_normal(20_000).astype(np.float32)
    low, high = float(calm.min()), float(calm.max())
    clip = best_clip(np.histogram(calm, BINS, (low, high))[0], low, high)
    assert high * 0.5 <= clip[1] <= high

    def error(bounds):
        return float(np.mean((calm - coded(calm, *bounds)) ** 2))

    assert error(clip) <= error((low, high))
    assert best_clip(np.ones(4), 0.0, 0.0)[1] > 0  # a constant tensor needs a scale too


def test_rare_large_values_are_not_clipped_away() -> None:
    """What a sample would miss: 1 value in 10,000, but ten times as large as the rest."""
    counts = np.histogram(np.append(np.abs(RNG.standard_normal(9_999)) * 0.1, 3.0), BINS, (0, 3.0))[0]
    assert best_clip(counts, 0.0, 3.0)[1] >= 2.8


def test_static_convolution_runs_on_codes(tmp_path: Path) -> None:
    model = graph_of(
        "Conv", values(8, 4, 3, 3), [1, 4, 9, 9], [1, 8, 9, 9], values(8), pads=[1, 1, 1, 1],
        kernel_shape=[3, 3],
    )
    x = values(1, 4, 9, 9)
    expected = open_session(model).run(None, {"x": x})[0]
    plan = {"layer": STATIC}
    found = rewrite(model, plan, ranges(model, qdq.activations(model, plan), [{"x": x}]))
    onnx.checker.check_model(found)
    assert "QLinearConv" in fused_ops(found, tmp_path / "o.onnx")
    assert psnr_db(expected, open_session(found).run(None, {"x": x})[0]) > 35


def test_static_matrix_product_runs_on_codes(tmp_path: Path) -> None:
    model = graph_of("MatMul", values(16, 8), [2, 5, 16], [2, 5, 8])
    x = values(2, 5, 16)
    expected = open_session(model).run(None, {"x": x})[0]
    plan = {"layer": STATIC}
    found = rewrite(model, plan, ranges(model, qdq.activations(model, plan), [{"x": x}]))
    assert "MatMulIntegerToFloat" in fused_ops(found, tmp_path / "o.onnx")
    assert psnr_db(expected, open_session(found).run(None, {"x": x})[0]) > 35


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm"])
def test_stored_weights_become_float_when_loaded(op: str, tmp_path: Path) -> None:
    shapes = {"Conv": ([8, 4, 1, 1], [1, 4, 6, 6], [1, 8, 6, 6]), "MatMul": ([16, 8], [3, 16], [3, 8])}
    weight, x, y = shapes.get(op, ([8, 16], [3, 16], [3, 8]))
    model = graph_of(op, values(*weight), x, y, **({"transB": 1} if op == "Gemm" else {}))
    feed = {"x": values(*x)}
    found = rewrite(model, {"layer": WEIGHTS}, {})
    (codes,) = (t for t in found.graph.initializer if t.data_type == TensorProto.INT8)
    assert list(codes.dims) == weight
    run = set(fused_ops(found, tmp_path / "o.onnx"))
    assert not run & {"DequantizeLinear", "Cast", "Mul"}
    expected, got = (open_session(m).run(None, feed)[0] for m in (model, found))
    assert psnr_db(expected, got) > 45


def test_embedding_rows_have_their_own_scales() -> None:
    table = values(6, 16) * np.logspace(-3, 2, 6, dtype=np.float32)[:, None]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 16])
    node = helper.make_node("Gather", ["w", "ids"], ["y"], name="layer")
    graph = helper.make_graph([node], "g", [ids], [y], [numpy_helper.from_array(table, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rows = np.array([[0, 3, 5], [1, 2, 4]])
    found = open_session(rewrite(model, {"layer": WEIGHTS}, {})).run(None, {"ids": rows})[0]
    error = np.abs(found - table[rows]).max(-1)
    assert (error <= np.abs(table[rows]).max(-1) / 254 * 1.001).all()


def test_the_plan_spares_first_and_last_convolutions_and_the_time_embedding() -> None:
    model = small_graphs()["unet"]
    plan = plan_of("unet", model, {"Conv", "MatMul"})
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert convs[0] == "unet.conv_in/Conv" and convs[-1] == "unet.conv_out/Conv"
    assert not {convs[0], convs[-1]} & plan.keys() and set(convs[1:-1]) <= plan.keys()
    assert not any("time_embedding" in name for name in plan)
    assert all(plan[name] == STATIC for name in convs[1:-4])
    assert all(plan[name] == WEIGHTS and "up_blocks.1.resnets.1" in name for name in convs[-4:-1])
    assert plan["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q/MatMul"] == STATIC
    assert {plan[name] for name in plan if name.endswith("time_emb_proj/Gemm")} == {WEIGHTS}
    scores = [n.name for n in model.graph.node if n.op_type == "MatMul" and n.name not in plan]
    assert scores and all(name.endswith("attn1/MatMul") or "attn" in name for name in scores)


def test_calibration_sees_every_timestep(reference) -> None:
    feeds = pipeline_feeds(reference.source, torch_network(reference.source), CALIBRATION[:16])
    steps = [int(feed["timestep"]) for feed in feeds["unet"]]
    assert steps == [999, 999, 749, 499, 249, 999]
    assert len(feeds["vae_decoder"]) == len(feeds["vae_encoder"]) == 3
    assert CALIBRATION[-1] == ""  # the empty prompt is a prompt


def test_classes_return_to_float_until_the_picture_is_good(reference) -> None:
    graphs, notes = quantize(small_graphs(), reference, goal_db=1000.0)
    facts = notes["int8"]
    assert facts["computed_in_8_bits"] == []
    returned = [item["layers"] for item in facts["returned_to_float"]]
    assert sorted(returned) == ["unet Conv", "unet MatMul", "vae_decoder Conv"]
    kinds = {node.op_type for model in graphs.values() for node in model.graph.node}
    assert "QuantizeLinear" not in kinds
    all_static, notes = quantize(small_graphs(), reference, goal_db=0.0)
    assert notes["int8"]["returned_to_float"] == []
    worst = [
        min(reference.pictures_db(network({name: open_session(m) for name, m in models.items()})))
        for models in (all_static, graphs)
    ]
    assert worst[0] < worst[1]


@pytest.mark.parametrize(("precision", "share", "least"), [("int8", 0.45, 28.0), ("fp16", 0.6, 35.0)])
def test_smaller_bundles(precision, share, least, reference, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporter, "trace_all", lambda _: small_graphs())
    report = export_onnx(reference.source, tmp_path / "out", precision)
    weights = sum(len(t.raw_data) for model in small_graphs().values() for t in model.graph.initializer) / 1e6
    assert size_mb(tmp_path / "out") < weights * share + 0.3  # 0.3 MB: tokenizer, configurations, nodes
    assert report["picture"]["psnr_db"] >= least
    assert report["precision"] == precision
    for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
        model = onnx.load(tmp_path / "out" / part / "model.onnx")
        onnx.checker.check_model(model)
        ports = [*model.graph.input, *model.graph.output]
        kinds = {port.type.tensor_type.elem_type for port in ports if port.name != "input_ids"}
        assert kinds == {TensorProto.FLOAT}


def test_half_precision_keeps_the_sinusoids_in_float() -> None:
    half = to_fp16(small_graphs()["unet"])
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds["unet.conv_in.weight.fp16"] == TensorProto.FLOAT16
    made = {name: node for node in half.graph.node for name in node.output}
    (sine,) = (node for node in half.graph.node if node.op_type == "Sin")
    assert made[sine.input[0]].op_type == "Mul"
    session = open_session(half)
    full = open_session(small_graphs()["unet"])
    feed = {
        "sample": values(1, 4, 8, 8), "timestep": np.array(999, np.float32),
        "encoder_hidden_states": values(1, 77, 32),
    }
    assert psnr_db(full.run(None, feed)[0], session.run(None, feed)[0]) > 45
