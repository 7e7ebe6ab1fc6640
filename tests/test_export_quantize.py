"""Quantized graphs: the arithmetic, what ONNX Runtime makes of them, which layers are chosen, whole bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.calibrate import BINS, best_clip, calibrate, coded, scale_and_zero
from export.checks import distance
from export.checks.distance import Distance, measure_distance
from export.checks.measure import psnr_db
from export.checks.reference import Reference, torch_network
from export.facts import size_mb
from export.layers import by_name, calibration, draw, layers, observed
from export.locate import locate
from export.onnx.export import export_onnx
from export.onnx.half import to_fp16
from export.onnx.options import Options
from export.onnx.quantize import planner
from export.onnx.quantize.codes import BLOCK, STATIC_LIMIT, STORED_LIMIT, encode, encode_blocks, layer_of
from export.onnx.quantize.planner import FLOAT, Planner
from export.onnx.quantize.prices import prices
from export.onnx.quantize.qdq import INT4, STATIC, WEIGHTS, rewrite
from export.onnx.run import open_session
from export.onnx.trace import Tracer
from export.source import open_source
from runtime.errors import UserError
from runtime.manifest import COMPONENTS
from tests.support.tiny import copied_graph, small_checkpoint, small_graphs
from train.config import DEMO_SHARD

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
        helper.make_node(op, inputs, ["z"], name="layer/X", **attributes),
        helper.make_node("Identity", ["z"], ["y"], name="out"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def limits(value: np.ndarray) -> tuple[float, float]:
    return float(value.min()), float(value.max())


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
        "Conv",
        values(8, 4, 3, 3),
        [1, 4, 9, 9],
        [1, 8, 9, 9],
        values(8),
        pads=[1, 1, 1, 1],
        kernel_shape=[3, 3],
    )
    x = values(1, 4, 9, 9)
    expected = open_session(model).run(None, {"x": x})[0]
    found = rewrite(model, {"layer": STATIC}, {"layer": (limits(x), limits(expected))})
    onnx.checker.check_model(found)
    assert "QLinearConv" in fused_ops(found, tmp_path / "o.onnx")
    assert psnr_db(expected, open_session(found).run(None, {"x": x})[0]) > 35


def test_static_matrix_product_runs_on_codes(tmp_path: Path) -> None:
    model = graph_of("MatMul", values(16, 8), [2, 5, 16], [2, 5, 8])
    x = values(2, 5, 16)
    expected = open_session(model).run(None, {"x": x})[0]
    found = rewrite(model, {"layer": STATIC}, {"layer": (limits(x), limits(expected))})
    assert "MatMulIntegerToFloat" in fused_ops(found, tmp_path / "o.onnx")
    assert psnr_db(expected, open_session(found).run(None, {"x": x})[0]) > 35


def test_static_one_row_layer_runs_on_codes(tmp_path: Path) -> None:
    model = graph_of("Gemm", values(8, 16), [2, 16], [2, 8], values(8), transB=1)
    x = values(2, 16)
    expected = open_session(model).run(None, {"x": x})[0]
    found = rewrite(model, {"layer": STATIC}, {"layer": (limits(x), limits(expected))})
    assert "QGemm" in fused_ops(found, tmp_path / "o.onnx")
    assert psnr_db(expected, open_session(found).run(None, {"x": x})[0]) > 35


def large_product(split: bool) -> onnx.ModelProto:
    """x W + b of 512 rows and 1,024 outputs, in two halves if wanted; shapes noted as the tracer notes them."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="layer/MatMul"),
        helper.make_node("Add", ["p", "b"], ["y"], name="layer/Add"),
    ]
    outputs = [value("y", TensorProto.FLOAT, ["batch", 512, 1024])]
    if split:
        nodes.append(helper.make_node("Split", ["y"], ["left", "right"], name="graph/Split", axis=-1, num_outputs=2))
        outputs = [value(name, TensorProto.FLOAT, ["batch", 512, 512]) for name in ("left", "right")]
    stored = [numpy_helper.from_array(array, name) for name, array in (("w", values(32, 1024)), ("b", values(1024)))]
    inputs = [value("x", TensorProto.FLOAT, ["batch", 512, 32])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    graph.value_info.append(value("p", TensorProto.FLOAT, ["batch", 512, 1024]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("split", [False, True])
def test_a_large_product_takes_its_bias_in_and_its_split(split: bool, tmp_path: Path) -> None:
    model, x = large_product(split), values(3, 512, 32)
    expected = open_session(model).run(None, {"x": x})
    found = rewrite(model, {"layer": STATIC}, {"layer": (limits(x), limits(expected[0]))})
    onnx.checker.check_model(found)
    fused = fused_ops(found, tmp_path / "o.onnx")
    assert "QGemm" in fused and not {"Add", "Split", "MatMulIntegerToFloat"} & set(fused)
    for one, other in zip(expected, open_session(found).run(None, {"x": x}), strict=True):
        assert psnr_db(one, other) > 35


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm"])
def test_stored_weights_become_float_when_loaded(op: str, tmp_path: Path) -> None:
    shapes = {"Conv": ([8, 4, 1, 1], [1, 4, 6, 6], [1, 8, 6, 6]), "MatMul": ([16, 8], [3, 16], [3, 8])}
    weight, x, y = shapes.get(op, ([8, 16], [3, 16], [3, 8]))
    model = graph_of(op, values(*weight), x, y, transB=1 if op == "Gemm" else None)
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
    node = helper.make_node("Gather", ["w", "ids"], ["y"], name="layer/Gather")
    graph = helper.make_graph([node], "g", [ids], [y], [numpy_helper.from_array(table, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rows = np.array([[0, 3, 5], [1, 2, 4]])
    found = open_session(rewrite(model, {"layer": WEIGHTS}, {})).run(None, {"ids": rows})[0]
    error = np.abs(found - table[rows]).max(-1)
    assert (error <= np.abs(table[rows]).max(-1) / 254 * 1.001).all()


def test_a_matrix_in_four_bits(tmp_path: Path) -> None:
    model = graph_of("MatMul", values(70, 24), [2, 5, 70], [2, 5, 24])  # 70 inputs: two blocks of 32 and a remainder
    feed = {"x": values(2, 5, 70)}
    found = rewrite(model, {"layer": INT4}, {})
    assert "MatMulNBits" in fused_ops(found, tmp_path / "o.onnx")
    weight = numpy_helper.to_array(model.graph.initializer[0])
    codes, scales = encode_blocks(weight.T)
    assert codes.shape == (24, 3, BLOCK) and codes.max() <= 15
    decoded = ((codes.astype(np.float32) - 8) * scales[..., None]).reshape(24, -1)[:, :70]
    np.testing.assert_allclose(open_session(found).run(None, feed)[0], feed["x"] @ decoded.T, rtol=1e-4, atol=1e-4)
    step = np.repeat(np.abs(scales), BLOCK, axis=1)[:, :70]
    assert (np.abs(decoded - weight.T) <= step * 1.001).all()


@given(st.integers(1, 3), st.integers(1, 70))
def test_four_bit_codes_keep_zeros_and_the_largest_weight(outputs: int, inputs: int) -> None:
    weight = np.random.default_rng(inputs).standard_normal((outputs, inputs)).astype(np.float32)
    weight[0, 0] = 0
    codes, scales = encode_blocks(weight)
    decoded = ((codes.astype(np.float32) - 8) * scales[..., None]).reshape(outputs, -1)[:, :inputs]
    assert decoded[0, 0] == 0
    row, column = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    np.testing.assert_allclose(decoded[row, column], weight[row, column], rtol=1e-6)


def test_every_layer_has_a_node_of_its_name() -> None:
    """Prices are by PyTorch's layers, plans are carried out on nodes: the names must meet."""
    found = by_name(layers(open_source(str(small_checkpoint()))))
    nodes = {layer_of(node) for name in COMPONENTS for node in small_graphs()[name].graph.node}
    missing = {name for name in found if name not in nodes}
    assert missing == {"text.embeddings.position_embedding"}  # which is added whole


def test_calibration_sees_every_timestep(reference, monkeypatch) -> None:
    seen = []
    source = reference.source
    hook = source.pipe.unet.register_forward_pre_hook(lambda _, inputs: seen.append(int(inputs[1])))
    ranges = calibrate(source, 16, 8)
    hook.remove()
    assert seen == [999, 999, 749, 499, 249, 999]
    low, high = ranges["unet.conv_in"][0]
    assert low < -1 < 1 < high  # noise
    assert source.prompts.calibration[-1] == ""  # the empty prompt is a prompt


@pytest.mark.parametrize(("kind", "steps"), [(STATIC, 1), (WEIGHTS, 1), (INT4, 1), (STATIC, 2)])
def test_a_layers_price_is_what_it_does_to_the_picture(kind: str, steps: int, reference) -> None:
    """Against the plain way: run the pipeline with one layer's error added, one layer after the other."""
    from export.onnx.quantize.prices import error_of

    source = reference.source
    ranges = calibrate(source, 8, 4)
    priced = prices(source, ranges, (kind,), count=8, batch=4, steps=steps)
    chosen = [name for name, price in priced.items() if price.squared_error.get(kind, 0) > 0]
    measured = {}
    for name in chosen[:: max(1, len(chosen) // 6)]:
        layer, errors = priced[name].layer, []

        def disturb(layer, given, output):
            return output + error_of(layer, kind, given, output, ranges.get(layer.name))

        for ids, noise in calibration(source, 8, 4):
            with torch.no_grad():
                clean = draw(source, ids, noise, steps).clamp(0, 1)
                with observed([layer], disturb):
                    errors.append(float(((draw(source, ids, noise, steps).clamp(0, 1) - clean) ** 2).mean()))
        measured[name] = np.mean(errors)
    gaps = [10 * np.log10(priced[name].squared_error[kind] / error) for name, error in measured.items()]
    assert len(gaps) >= 6 and np.abs(np.median(gaps)) < 1.5 and np.abs(gaps).max() < 6  # dB; 32 probes each


def test_a_layers_work_is_that_of_a_whole_picture_where_a_part_is_decoded(reference, monkeypatch) -> None:
    """Else the decoder of a large model, three quarters of its work, would look cheap and be left in float first."""
    source = reference.source
    whole = prices(source, {}, (WEIGHTS,), 1, 1)
    assert source.pipe.unet.config.sample_size == 8
    monkeypatch.setattr("export.onnx.quantize.prices.LARGE_SIDE", 4)
    monkeypatch.setattr(type(source), "large", True)
    part = prices(source, {}, (WEIGHTS,), 1, 1)
    assert {name: price.macs for name, price in part.items()} == {name: price.macs for name, price in whole.items()}
    assert {name: price.inputs for name, price in part.items()} == {name: one.inputs for name, one in whole.items()}


@pytest.mark.parametrize("precision", ["int8", "int8-weights", "int4-weights"])
def test_the_dearest_layers_climb_until_the_budget_is_kept(precision: str, reference) -> None:
    planned = Planner(reference.source, precision)
    free, strict, hopeless = (planned.plan(budget) for budget in (0.0, 0.0, 200.0))
    total = {name: planned.ladder(price)[0] for name, price in planned.prices.items()}
    assert free.kinds == {name: kind for name, kind in total.items() if kind != FLOAT}
    strict = planned.plan(free.expected_db + 3)
    assert strict.expected_db >= free.expected_db + 3
    left = {name for name in total if strict.kinds.get(name, FLOAT) != total[name]}
    assert 0 < len(left) < len(total) / 2  # a few layers cause most of the error
    dear = [planned.error(name, total[name]) for name in left]
    kept = [planned.error(name, total[name]) for name in total if name not in left]
    assert np.median(dear) > 3 * np.median(kept)
    assert hopeless.kinds == {}
    notes = planned.notes(strict, 30.0, 1)
    assert left == set(notes["dearest"]) and sum(notes["layers"].values()) + notes["float"] == len(total)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges and prices from four pictures, where a test is about what follows from them."""
    for name, count in (("PROMPTS", 4), ("PRICED", 4), ("BATCH", 2)):
        monkeypatch.setattr(planner, name, count)


def test_an_export_that_misses_the_gate_is_tried_again_with_less_error(
    reference, few_pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(Tracer, "graph", copied_graph)
    monkeypatch.setattr("export.onnx.export.measure_distance", no_distance)
    first = export_onnx(reference.source, tmp_path / "one", Options("int8", budget_db=0))
    wanted = first["picture"]["psnr_db"] + 4
    report = export_onnx(reference.source, tmp_path / "two", Options("int8", budget_db=0, min_psnr_db=wanted))
    assert report["picture"]["psnr_db"] >= wanted
    assert report["recipe"]["rounds"] > 1 and report["recipe"]["dearest"]
    assert report["recipe"]["macs_in_8_bits"] < first["recipe"]["macs_in_8_bits"]


def test_pictures_of_several_steps_that_are_too_far_are_priced_and_tried_again(
    reference, few_pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(Tracer, "graph", copied_graph)
    monkeypatch.setattr("export.onnx.export.measure_distance", no_distance)
    first = export_onnx(reference.source, tmp_path / "one", Options("int8", budget_db=0))
    assert first["recipe"]["rounds"] == 1 and first["recipe"]["priced_steps"] == [1]
    several = {2: first["two_steps_db"], 4: first["four_steps_db"]}
    worst, found = min(several.items(), key=lambda item: item[1])
    monkeypatch.setattr("export.onnx.export.STEPS_DB", -(found + 4))  # below the budget of 0 dB
    report = export_onnx(reference.source, tmp_path / "two", Options("int8", budget_db=0))
    assert min(report["two_steps_db"], report["four_steps_db"]) >= found + 4
    assert report["recipe"]["rounds"] > 1 and report["recipe"]["priced_steps"] == [1, worst]
    assert report["recipe"]["macs_in_8_bits"] < first["recipe"]["macs_in_8_bits"]


def test_the_dearer_of_a_layers_prices_counts(reference, few_pictures) -> None:
    planned = Planner(reference.source, "int8")
    before = {name: dict(price.squared_error) for name, price in planned.prices.items()}
    planned.look_at(4)
    after = {name: dict(price.squared_error) for name, price in planned.prices.items()}
    assert planned.steps == 4 and before.keys() == after.keys()
    raised = [after[name][kind] > before[name][kind] for name in before for kind in before[name]]
    assert all(after[name][kind] >= before[name][kind] for name in before for kind in before[name])
    assert any(raised)


def test_pictures_too_far_from_real_ones_keep_more_layers_in_float(
    reference, few_pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(Tracer, "graph", copied_graph)
    answers = [Distance(100.0, 104.0, "failed", "too far", 160), Distance(100.0, 101.0, "passed", "", 160)]
    monkeypatch.setattr("export.onnx.export.measure_distance", lambda *_: answers.pop(0))
    report = export_onnx(reference.source, tmp_path / "out", Options("int8", budget_db=0))
    assert report["recipe"]["rounds"] == 2 and report["recipe"]["dearest"]
    assert report["fd_lite0"]["ratio"] == 1.01
    always = Distance(100.0, 104.0, "failed", "1.040 times the checkpoint's, beyond 1.03", 160)
    monkeypatch.setattr("export.onnx.export.measure_distance", lambda *_: always)
    with pytest.raises(UserError, match="FD-Lite0 is 1.040 times the checkpoint's.*nothing was written"):
        export_onnx(reference.source, tmp_path / "two", Options("int8"))
    assert not (tmp_path / "two").exists()


class Averages:
    """A feature network that is quick: each picture's colours in an 8x8 grid."""

    def of(self, pictures: np.ndarray) -> torch.Tensor:
        count, side = len(pictures), pictures.shape[1] // 8
        blocks = pictures.reshape(count, 8, side, 8, side, 3).mean((2, 4)) / 255
        return torch.from_numpy(blocks.reshape(count, -1).astype(np.float32))


def test_the_distance_is_of_the_same_captions_and_seeds(reference, monkeypatch) -> None:
    """The checkpoint beside itself, and beside a network that draws noise."""
    monkeypatch.setattr(distance, "COUNT", 24)
    monkeypatch.setattr(distance, "feature_set", Averages)
    same = torch_network(reference.source)
    real = Path(DEMO_SHARD)
    found = measure_distance(reference.source, same, real)
    assert found.status == "passed" and found.ratio == pytest.approx(1.0) and found.pictures == 24
    noise = np.random.default_rng(0)
    other = replace(same, vae_decoder=lambda z: noise.standard_normal((len(z), 3, 64, 64)).astype(np.float32))
    assert measure_distance(reference.source, other, real, most_ratio=1e9).ratio != pytest.approx(1.0, rel=0.01)
    assert measure_distance(reference.source, other, real, most_ratio=1e-3).status == "failed"
    for remembered in (distance.captions, distance.real_features, distance.reference_distance):
        remembered.cache_clear()


def test_a_strangers_pictures_are_not_measured_by_the_demos(reference, tmp_path) -> None:
    found = measure_distance(reference.source, torch_network(reference.source))
    assert found.status == "not run" and "give its own with --data" in found.why and found.ratio is None
    (tmp_path / "training.json").write_text('{"data": "sticker"}')
    assert distance.no_pictures_for(replace(reference.source, folder=tmp_path)) == ""
    (tmp_path / "training.json").write_text('{"data": "somebody\'s"}')
    assert distance.no_pictures_for(replace(reference.source, folder=tmp_path))
    for shipped in ("sticker-128", "sticker-128-teacher"):
        assert distance.no_pictures_for(replace(reference.source, folder=locate(shipped))) == ""


def no_distance(*_):
    return Distance(None, None, "not run", "not what this test is about")


@pytest.mark.parametrize(
    ("precision", "share", "least"),
    [("int8", 0.4, 30.0), ("fp16", 0.6, 35.0), ("int8-weights", 0.4, 30.0), ("int4-weights", 0.33, 20.0)],
)
def test_smaller_bundles(precision, share, least, reference, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Tracer, "graph", copied_graph)
    monkeypatch.setattr("export.onnx.export.measure_distance", no_distance)
    report = export_onnx(reference.source, tmp_path / "out", Options(precision))
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
        "sample": values(1, 4, 8, 8),
        "timestep": np.array(999, np.float32),
        "encoder_hidden_states": values(1, 77, 32),
    }
    assert psnr_db(full.run(None, feed)[0], session.run(None, feed)[0]) > 45
