"""Untrusted bundles: every corrupted one ends in a BundleError or a picture, and the fuzzer detects anything else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import runtime
from runtime import BundleError
from runtime.bundle import open_bundle
from runtime.onnx_guard import graph as onnx_file
from runtime.onnx_guard.component import check_output, declared_output
from runtime.onnx_guard.graph import inspect
from runtime.onnx_guard.wire import Malformed
from runtime.ort.session import Session
from runtime.untrusted import read_json, shown
from scripts import fuzz_bundle
from scripts.fuzz_bases import make_bases, sign
from scripts.fuzz_bundle import FINE, Process, fuzz, table
from scripts.fuzz_worker import KINDS
from tests.support.counting import reading_at_most

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
SHIPPED = ROOT / "runtime" / "bundles" / "sticker-128"
PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads of native code are seen by Linux' inotify")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzzer's two valid bundles."""
    folder = tmp_path_factory.mktemp("bases")
    make_bases(folder)
    return folder


@pytest.fixture(params=["tiny", "int8"])
def bundle(request: pytest.FixtureRequest, bases: Path, tmp_path: Path) -> Path:
    """A copy of one of them that may be spoilt."""
    return Path(shutil.copytree(bases / request.param, tmp_path / "bundle"))


def run_fuzzer(seed: int, count: int, out: Path) -> None:
    kinds = list(KINDS)
    cases = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(count)]
    results = fuzz(cases, seed, out, workers=1)
    failures = [result for result in results if result.outcome not in FINE]
    assert not failures, "\n".join(map(str, failures))
    outcomes = {outcome: sum(result.outcome == outcome for result in results) for outcome in FINE}
    assert sum(outcomes.values()) == count and min(outcomes.values()) > 0
    assert len(table(results).splitlines()) == len(KINDS) + 2


@linux
def test_spoilt_bundles_end_in_an_error_or_a_picture(tmp_path: Path) -> None:
    run_fuzzer(1, 6 * len(KINDS), tmp_path)


@linux
@pytest.mark.slow
def test_ten_thousand_spoilt_bundles(tmp_path: Path) -> None:
    run_fuzzer(2, 10_000, tmp_path)


def test_what_is_spoilt_was_in_order(bundle: Path) -> None:
    pipe = runtime.load(bundle)
    first, second = pipe("a fox", seed=1)[0], pipe("a pizza", seed=1)[0]
    assert first.size == (40, 32) and first.tobytes() != second.tobytes()


# Whether the fuzzer notices faults.


@linux
@pytest.mark.parametrize("native", [False, True], ids=["Python", "native"])
def test_a_read_outside_is_seen(tmp_path: Path, native: bool) -> None:
    code = """
import ctypes, sys
from pathlib import Path
from scripts.fuzz_worker import Watch
watch, bundle, outside = Watch(), Path(sys.argv[1], "bundle"), Path(sys.argv[1], "outside")
watch.start(bundle, outside)
(bundle / "a").read_bytes()
assert watch.stop() == [], "a read inside counts"
watch.start(bundle, outside)
if sys.argv[2] == "True":
    ctypes.CDLL(None).open(bytes(outside / "canary"), 0)
else:
    Path("/etc/hostname").read_bytes()
print(watch.stop())
"""
    for name in ("bundle/a", "outside/canary"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    command = [sys.executable, "-c", code, str(tmp_path), str(native)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ("outside/canary" if native else "/etc/hostname") in done.stdout, done.stderr


@linux
@pytest.mark.parametrize(
    ("what", "outcome"), [("os.abort()", "crash"), ("while True: pass", "hang"), ("raise SystemExit", "crash")]
)
def test_a_crash_and_a_hang_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, outcome: str) -> None:
    code = f'import os, sys; print("{{}}", flush=True); input(); print("{{}}", flush=True)\n{what}'
    script = tmp_path / "worker.py"
    script.write_text(code)
    monkeypatch.setattr(fuzz_bundle, "HANG_S", 0.5)
    usual = subprocess.Popen

    def other(command: list[str], **options: Any) -> Any:
        return usual([command[0], str(script)], **options)

    monkeypatch.setattr(subprocess, "Popen", other)
    process = Process(1, tmp_path, tmp_path)
    assert process.alive and process.case("x", 0).outcome == outcome and not process.alive


# What a graph may contain.


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("folder", [SHIPPED, TINY, None], ids=["shipped", "tiny", "int8"])
def test_the_walk_sees_what_onnx_sees(bases: Path, folder: Path | None, part: str) -> None:
    path = (folder or bases / "int8") / part / "model.onnx"
    found, graph = inspect(path.read_bytes()), onnx.load(path, load_external_data=False).graph
    assert len(found.nodes) == len(graph.node) > 0
    sizes = {one.name.encode(): tuple(one.dims) for one in graph.initializer}
    assert sizes == {name: found.stored[name] for name in sizes}
    away = [
        {one.key: one.value for one in tensor.external_data} for tensor in graph.initializer if tensor.external_data
    ]
    places = [(one["location"], int(one["offset"]), int(one["length"])) for one in away]
    assert places == [(one.location, one.offset, one.length) for one in found.external]
    for port in graph.output:
        dims = tuple(dim.dim_value or None for dim in port.type.tensor_type.shape.dim)
        assert found.outputs[port.name] == dims == declared_output(path, port.name)


def test_every_part_of_the_shipped_bundle_is_in_order_quickly() -> None:
    bundle = open_bundle(SHIPPED, verify=False)
    start = time.thread_time()
    for part in PARTS:
        assert bundle.model(part) == SHIPPED / part / "model.onnx"
    assert time.thread_time() - start < 0.1  # 0.01 on an idle machine


def graph_with(change: Callable[[Any], None], part: str = "vae_decoder") -> bytes:
    model = onnx.load(TINY / part / "model.onnx")
    change(model)
    return bytes(model.SerializeToString())


def add(model: Any, *nodes: Any, **stored: Any) -> None:
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items())


def put_away(model: Any, **facts: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=value)


def dims(*sizes: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return change


def operator(name: str, domain: str = "", **attributes: Any) -> Callable[[Any], None]:
    return lambda model: add(model, helper.make_node(name, ["latent_sample"], ["more"], domain=domain, **attributes))


def body() -> Any:
    return helper.make_graph([], "body", [], [])


def grown(model: Any) -> None:
    add(model, *(helper.make_node("Tile", ["one", "many"], [f"t{i}"]) for i in range(9)), one=[1.0], many=[10**9])


def multiplied(model: Any) -> None:
    column, row = np.ones((4000, 1), np.float32), np.ones((1, 4000), np.float32)
    add(model, helper.make_node("Mul", ["column", "row"], ["product"]), column=column, row=row)


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "loop": (operator("Loop", body=body()), "operator Loop"),
    "branch": (operator("If", then_branch=body(), else_branch=body()), "operator If"),
    "library": (operator("Anything", "evil.corp"), "evil.corp.Anything"),
    "context": (operator("EPContext", "com.microsoft", ep_cache_context="../../x"), "com.microsoft.EPContext"),
    "random": (operator("RandomNormal", shape=[1]), "RandomNormal"),
    "graph in an attribute": (operator("Relu", body=body()), "field 6"),
    "borders": (operator("MaxPool", kernel_shape=[1, 1], pads=[0, 0, 2**31, 0]), "pads"),
    "number": (operator("Transpose", perm=[2**40]), "perm"),
    "negative size": (dims(-1, 5), "shape"),
    "absurd size": (dims(2**31, 2**31), "shape"),
    "other size": (dims(3), "values are not the 3"),
    "rank": (dims(*[1] * 9), "shape"),
    "type": (lambda model: setattr(model.graph.initializer[0], "data_type", 8), "data type 8"),
    "offset": (lambda model: put_away(model, location="x", offset="-1", length="3840"), "not a number"),
    "length": (lambda model: put_away(model, location="x", offset="0", length="1"), "in another file"),
    "key": (lambda model: put_away(model, location="x", memory="1"), "place is given"),
    "function": (lambda model: model.functions.add(), "field 25"),
    "training": (lambda model: model.training_info.add(), "field 20"),
    "sparse": (lambda model: model.graph.sparse_initializer.add(), "field 15"),
    "grown": (grown, "more than 8 large arrays"),
    "multiplied": (multiplied, "before it has any input"),
    "version": (lambda model: setattr(model, "ir_version", 99), "IR version"),
    "many nodes": (lambda model: add(model, *[helper.make_node("Relu", ["a"], ["b"])] * 50_001), "too many"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_is_no_picture_model_is_refused(name: str) -> None:
    change, why = REFUSED[name]
    with pytest.raises(Malformed, match=why):
        inspect(graph_with(change))


def test_merged_and_cut_messages_are_refused() -> None:
    data = (TINY / "unet" / "model.onnx").read_bytes()
    assert inspect(data).nodes
    for wrong in (
        data + data,
        data + b"\x3a\x00",
        data + b"\x0b\x0c",
        data[:-1],
        b"",
        b"\x08\x88\x00" + data,
        data + b"\x3a\xff",
    ):
        with pytest.raises(Malformed):
            inspect(wrong)


def test_every_cut_of_a_model_is_refused() -> None:
    data = (TINY / "vae_encoder" / "model.onnx").read_bytes()
    whole = onnx.load(TINY / "vae_encoder" / "model.onnx").graph.ByteSize()
    for size in range(0, whole, 7):
        with pytest.raises(Malformed):
            inspect(data[:size])


LOCATIONS = (
    "../../outside",
    "/etc/passwd",
    "*/_ORT_MEM_ADDR_/*",
    "",
    ".",
    "..",
    "sub/x",
    "x\x00",
    "config.txt",
    "..\\x",
)


@pytest.mark.parametrize("location", LOCATIONS)
def test_weights_elsewhere_are_refused_before_they_are_read(bundle: Path, location: str) -> None:
    path = bundle / "vae_decoder" / "model.onnx"
    path.write_bytes(graph_with(lambda model: put_away(model, location=location, offset="0", length="3840")))
    sign(bundle)
    with pytest.raises(BundleError, match="vae_decoder/model.onnx is not a model that can be opened") as error:
        runtime.load(bundle)
    assert str(error.value).isprintable()


def test_weights_beyond_the_end_of_a_file_are_refused(bases: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bases / "int8", tmp_path / "bundle"))
    data = bundle / "unet" / "model.onnx_data"
    for size in (data.stat().st_size - 1, data.stat().st_size + 2**21):
        os.truncate(data, size)
        sign(bundle)
        with pytest.raises(BundleError, match=f"model.onnx_data end at byte .* has {size} bytes"):
            runtime.load(bundle)


def test_memory_is_limited_where_only_running_shows_it(tmp_path: Path) -> None:
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Shape", ["latent_sample"], ["shape"]), node("Mul", ["shape", "many"], ["large"]),
        node("ConstantOfShape", ["large"], ["zeros"]), node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        node("Add", ["latent_sample", "zero"], ["sample"]),
    ]  # fmt: skip
    many = numpy_helper.from_array(np.array([10**9], np.int64), "many")
    ports = [value(name, TensorProto.FLOAT, [1]) for name in ("latent_sample", "sample")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [many])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert inspect(path.read_bytes()).nodes  # the file shows no sign of it
    with pytest.raises(BundleError, match="Available memory of"):
        Session("vae_decoder", path, "cpu").run(latent_sample=np.ones(1))


def test_an_output_of_other_sizes_than_declared_is_an_error() -> None:
    output = np.zeros((1, 5, 4, 5), np.float32)
    assert check_output(Path("x"), output, (None, 5, 4, 5)) is output
    for declared in ((None, 5, 4, 6), (5, 4, 5), (2, 5, 4, 5)):
        with pytest.raises(BundleError, match="gave an array of 1x5x4x5"):
            check_output(Path("x"), output, declared)


# Files and manifests.


@pytest.mark.parametrize("target", ["same", "/dev/zero", "/etc/passwd", "pipe"])
@pytest.mark.parametrize("name", ["unet/model.onnx", "tokenizer/vocab.json", "model_index.json", "manifest.json"])
@pytest.mark.parametrize("verify", [True, False])
def test_what_is_no_file_of_the_bundle_is_not_read(tmp_path: Path, target: str, name: str, verify: bool) -> None:
    bundle = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    copied = tmp_path / "same"
    shutil.move(bundle / name, copied)
    if target == "pipe":
        os.mkfifo(bundle / name)
    else:
        (bundle / name).symlink_to(copied if target == "same" else target)
    with (
        reading_at_most(10**6),
        pytest.raises(BundleError, match=f"{name} (leads out of its folder|is not a file but a pipe)"),
    ):
        runtime.load(bundle, verify=verify)


def test_a_link_within_the_bundle_is_a_file(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    (bundle / "unet" / "model.onnx").rename(bundle / "unet" / "kept")
    (bundle / "unet" / "model.onnx").symlink_to("kept")
    (tmp_path / "link").symlink_to(bundle)
    assert runtime.load(tmp_path / "link")("a fox", seed=1)


def test_twenty_gigabytes_of_nothing_are_not_hashed(tmp_path: Path) -> None:
    for size, name in ((20 * 10**9, "unet/model.onnx"), (10**9, "unet/model.onnx"), (10**9, "unet/config.json")):
        bundle = Path(shutil.copytree(TINY, tmp_path / f"{size}-{Path(name).name}"))
        os.truncate(bundle / name, size)
        for signed in (False, True):
            if signed:
                sign(bundle)
            with reading_at_most(10**8), pytest.raises(BundleError):
                runtime.load(bundle)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": NaN}', "[-Infinity]", '["\\ud800"]', '{"\\udfff": 1}', "\ufeff{}", "1" * 5000],
)
def test_json_that_readers_take_differently_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        read_json(text.encode())
    assert read_json(b'{"a": [1, 1.5, "\\ud83d\\ude00"]}') == {"a": [1, 1.5, "😀"]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_size": [10**9, 10**9]}, "image_size"),
        ({"image_size": [4096, 4096]}, "multiply to"),
        ({"latent_shape": [4096, 4096, 4096]}, "latent_shape"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"scaling_factor": float("nan")}, "NaN"),
        ({"name": "\x1b[2J"}, "name"),
        ({"name": "x" * 10**5}, "name"),
        ({"steps": {"1_0": []}}, "not a number of steps"),
        ({"steps": {"1000000": []}}, "not a number of steps"),
        ({"licences": "abc"}, "licences"),
        ({"training": "x"}, "training"),
    ],
)
def test_absurd_manifests_are_named(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    bundle = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    data = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(data | change))
    with pytest.raises(BundleError, match=why) as error:
        runtime.load(bundle)
    assert str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize("size", [4_000_001, 10**9])
def test_a_manifest_of_a_gigabyte_is_not_read(tmp_path: Path, size: int) -> None:
    bundle = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    os.truncate(bundle / "manifest.json", size)
    with pytest.raises(BundleError, match=f"manifest.json has {size} bytes: 4000000 at most"):
        runtime.load(bundle)


def test_what_others_wrote_is_shown_in_print() -> None:
    assert shown("a\x1b[2J\n\ud800") == "a\\x1b[2J\\x0a\\xd800" and shown("x" * 10**6).endswith("x...")
    assert len(shown("\x00" * 10**6)) < 100


def test_the_same_seed_spoils_in_the_same_way(bases: Path, tmp_path: Path) -> None:
    for kind in ("bits_flipped", "manifest_value"):
        contents = []
        for name in ("a", "b"):
            folder = Path(shutil.copytree(bases / "tiny", tmp_path / f"{kind}-{name}"))
            KINDS[kind](Random(7), folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            contents.append([path.read_bytes() for path in files])
        assert contents[0] == contents[1]
    assert onnx_file.MOST_GROWN == 8
