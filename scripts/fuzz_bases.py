"""The valid bundles that the fuzzer corrupts: the tests' tiny one, and one like int8 bundles with a table of words."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.manifest import COMPONENTS
from scripts.variation_cases import table

TINY = Path(__file__).parent.parent / "tests" / "golden" / "tiny_bundle"


def make_bases(folder: Path) -> list[Path]:
    """Writes both bundles below `folder`."""
    plain, quantized = folder / "tiny", folder / "int8"
    for base in (plain, quantized):
        shutil.copytree(TINY, base, ignore=shutil.ignore_patterns("end_to_end.json"))
    path = quantized / "unet" / "model.onnx"
    model = _quantized(onnx.load(path))
    _save_with_data(path, model)
    manifest = json.loads((quantized / "manifest.json").read_text(encoding="utf-8"))
    (quantized / "manifest.json").write_text(json.dumps(manifest | {"variation": table()}), encoding="utf-8")
    sign(quantized)
    return [plain, quantized]


def sign(folder: Path) -> None:
    """Updates the manifest's facts for the files that it lists and for new ones beside the models.

    What cannot be read as a file keeps the facts that it had.
    """
    path = folder / "manifest.json"
    if path.is_symlink() or not path.is_file():
        return
    data = json.loads(path.read_text(encoding="utf-8"))
    extra = [f"{name}/model.onnx_data" for name in COMPONENTS]
    for name in [*data["files"], *extra]:
        one = folder / name
        if one.is_file() and not one.is_symlink():
            data["files"][name] = _facts(one)
    path.write_text(json.dumps(data), encoding="utf-8")


def _facts(path: Path) -> dict[str, Any]:
    if path.stat().st_size > 10**8:  # a sparse file: hashing it would take too long, and its size is right
        return {"sha256": "0" * 64, "bytes": path.stat().st_size}
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def _quantized(model: Any) -> Any:
    """Convolutions' weights in int8, activations in uint8, and the contributed operators of the exporter."""
    graph, node = model.graph, helper.make_node
    put = lambda name, value: graph.initializer.append(numpy_helper.from_array(value, name))  # noqa: E731
    for conv in [one for one in graph.node if one.op_type == "Conv"]:
        weight = next(one for one in graph.initializer if one.name == conv.input[1])
        array = numpy_helper.to_array(weight)
        scale = (np.abs(array).max((1, 2, 3)) / 127).astype(np.float32)
        stored = np.round(array / scale[:, None, None, None]).astype(np.int8)
        graph.initializer.remove(weight)
        put(f"{weight.name}.i8", stored), put(f"{weight.name}.scale", scale)
        put(f"{weight.name}.zero", np.zeros(len(scale), np.int8))
        inputs = [f"{weight.name}.i8", f"{weight.name}.scale", f"{weight.name}.zero"]
        graph.node.insert(0, node("DequantizeLinear", inputs, [f"{weight.name}.f"], axis=0))
        conv.input[1] = f"{weight.name}.f"
    for name, value in {
        "q.scale": np.array(0.05, np.float32),
        "q.zero": np.array(128, np.uint8),
        "n.zero": np.array(0, np.float32),
        "n.weight": np.random.RandomState(5).randint(0, 256, (8, 1, 8)).astype(np.uint8),
        "n.scales": np.full(8, 0.01, np.float32),
        "r.scales": np.array([1, 1, 1], np.float32),
        "e.shape": np.array([1, 1, 1], np.int64),
    }.items():
        put(name, value)
    states = "encoder_hidden_states"
    nodes = [
        node("QuantizeLinear", [states, "q.scale", "q.zero"], ["q.u8"]),
        node("DequantizeLinear", ["q.u8", "q.scale", "q.zero"], ["q.f"]),
        node(
            "MatMulNBits",
            ["q.f", "n.weight", "n.scales"],
            ["n.out"],
            domain="com.microsoft",
            K=8,
            N=8,
            bits=4,
            block_size=16,
        ),
        node("MultiHeadAttention", ["n.out", "n.out", "n.out"], ["m.out"], domain="com.microsoft", num_heads=2),
        node("Gelu", ["m.out"], ["g.out"], domain="com.microsoft"),
        node("Expand", ["g.out", "e.shape"], ["e.out"]),
        node("Resize", ["e.out", "", "r.scales"], ["r.out"], mode="nearest"),
        node("Constant", [], ["c.tenth"], value_float=0.1),
        node("Mul", ["r.out", "c.tenth"], ["s.out"]),
        node("Add", [states, "s.out"], ["states"]),
    ]
    for one in graph.node:
        for i, name in enumerate(one.input):
            one.input[i] = "states" if name == states else name
    for one in reversed(nodes):
        graph.node.insert(0, one)
    model.opset_import.add(domain="com.microsoft", version=1)
    return model


def _save_with_data(path: Path, model: Any) -> None:
    """model.onnx, and model.onnx_data with the tensors of 64 bytes and more."""
    data = bytearray()
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < 64:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "model.onnx_data", "offset": len(data), "length": len(raw)}.items():
            tensor.external_data.add(key=key, value=str(value))
        data += raw
    path.with_name("model.onnx_data").write_bytes(data)
    path.write_bytes(model.SerializeToString())
