"""Exports of large checkpoints: weights are read one by one, and the checkpoint leaves while an export is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export import source as sources
from export.onnx import waiting
from export.onnx.__main__ import main as export_onnx
from export.onnx.bundle import write_graph
from export.onnx.half import to_fp16
from export.onnx.quantize.qdq import INT4, WEIGHTS, rewrite
from export.onnx.run import OneAtATime
from export.onnx.trace import Port, trace
from export.onnx.waiting import array_of, forget, leave, maker_of
from export.parked import is_parked, park, restore
from export.source import open_source
from tests.support.tiny import small_checkpoint

TINY = Path(__file__).parent / "golden" / "tiny_bundle"
WEIGHT = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)


def product(waits: bool) -> onnx.ModelProto:
    """x W as a layer named `layer`, its weight stored or waiting."""
    weight = (
        leave("w", WEIGHT.shape, TensorProto.FLOAT, lambda: WEIGHT) if waits else numpy_helper.from_array(WEIGHT, "w")
    )
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, width]) for name, width in (("x", 64), ("y", 96))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer/MatMul")
    graph = helper.make_graph([node], "graph", ports[:1], ports[1:], [weight], value_info=ports)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    "rewritten",
    [
        lambda model: model,
        to_fp16,
        lambda model: rewrite(model, {"layer": WEIGHTS}, {}),
        lambda model: rewrite(model, {"layer": INT4}, {}),
        lambda model: rewrite(model, {}, {}),
    ],
    ids=["fp32", "fp16", "8 bits", "4 bits", "no layer"],
)
@pytest.mark.parametrize("inline", [0, 10**6], ids=["outside", "inline"])
def test_a_waiting_weight_is_written_like_a_stored_one(
    rewritten: Callable[[onnx.ModelProto], onnx.ModelProto],
    inline: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.onnx.bundle.INLINE_BYTES", inline)
    written = []
    for waits in (False, True):
        (folder := tmp_path / str(waits)).mkdir()
        write_graph(folder, rewritten(product(waits)))
        onnx.checker.check_model(str(folder / "model.onnx")) if rewritten is to_fp16 else None
        written.append(onnx.load(folder / "model.onnx"))
    assert written[0] == written[1]


def test_a_traced_graph_leaves_its_weights_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LEAST_BYTES", 4096)
    first = nn.Linear(64, 96)
    layer = nn.Sequential(first, nn.Linear(96, 8, bias=False))
    model = trace(layer, [Port("x", torch.zeros(2, 3, 64))], ["y"], waiting=True)
    weights = [tensor for tensor in model.graph.initializer if maker_of(tensor)]
    assert sorted(tuple(tensor.dims) for tensor in weights) == [(64, 96)]  # the other one is small
    assert model.ByteSize() < 8000
    with torch.no_grad():
        first.weight.fill_(7)  # a copy would not notice
    assert (array_of(weights[0]) == 7).all()
    forget()


def test_a_parked_checkpoint_comes_back_from_its_files() -> None:
    source = open_source(str(small_checkpoint()))
    before = {name: weight.clone() for name, weight in source.pipe.unet.named_parameters()}
    kept = source.pipe.vae.state_dict()
    park(source)
    assert is_parked(source) and sum(weight.numel() for weight in source.pipe.text_encoder.parameters()) == 0
    assert all(weight.numel() for weight in kept.values())
    restore(source)
    assert not is_parked(source)
    assert all(torch.equal(weight, before[name]) for name, weight in source.pipe.unet.named_parameters())


def test_one_session_at_a_time() -> None:
    names = ("text_encoder", "unet", "vae_decoder")
    sessions = OneAtATime({name: TINY / name / "model.onnx" for name in names})
    assert list(sessions) == list(names) and len(sessions) == 3
    first = sessions["unet"]
    assert sessions["unet"] is first
    assert {port.name for port in sessions["vae_decoder"].get_inputs()} == {"latent_sample"}
    assert sessions.open is not None and sessions.open[0] == "vae_decoder" and sessions["unet"] is not first


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-weights"])
def test_a_large_checkpoint_is_exported_like_a_small_one(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = []
    for large in (False, True):
        if large:
            monkeypatch.setattr(sources, "LARGE", 0)
            monkeypatch.setattr(waiting, "LEAST_BYTES", 4096)
        outs.append(tmp_path / str(large))
        options = ["--budget-db", "1"] if precision == "int8-weights" else []  # every layer that can be
        assert export_onnx([str(small_checkpoint()), "--out", str(outs[-1]), "--precision", precision, *options]) == 0
    for part in ("text_encoder", "unet", "vae_decoder"):
        small, large_ = (onnx.load(out / part / "model.onnx").graph for out in outs)
        assert list(small.node) == list(large_.node)
        assert sorted(small.initializer, key=str) == sorted(large_.initializer, key=str)
