"""Providers, and the inputs and outputs that graphs must have."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import runtime
from runtime import BundleError, ProviderError, ProviderWarning
from runtime.bundle import describe_files, open_bundle, write_manifest
from runtime.manifest import FileFacts
from runtime.ort import providers, session
from runtime.ort.providers import choose_provider, installed_variants
from runtime.ort.session import Session
from runtime.tokenizer.conditioning import SD

TINY = Path(__file__).parent / "golden" / "tiny_bundle"


@pytest.fixture(autouse=True)
def nothing_was_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_warned", set())


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def have(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    names = [providers.PROVIDERS[name] for name in present]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


@pytest.mark.usefixtures("no_warnings")
def test_auto_is_the_best_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "cpu")
    assert choose_provider("auto") == "cpu"
    have(monkeypatch, "coreml", "openvino", "cpu")
    assert choose_provider("auto") == "cpu" and choose_provider("coreml") == "coreml"
    assert choose_provider("openvino") == "openvino"
    have(monkeypatch, "cuda", "cpu")
    assert choose_provider("auto") == "cuda" and choose_provider("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "coreml", "openvino"])
def test_an_absent_provider_falls_back_with_one_warning(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    have(monkeypatch, "cpu")
    with pytest.warns(ProviderWarning, match=f"provider {name} .*using cpu") as caught:
        assert [choose_provider(name) for _ in range(3)] == ["cpu"] * 3
    assert len(caught) == 1


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProviderError, match="'tpu': choose auto, cpu, cuda, coreml, openvino"):
        runtime.load(TINY, provider="tpu")


@pytest.mark.parametrize("how", ["raises", "drops"])
def test_a_provider_that_does_not_start_falls_back_with_one_warning(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    have(monkeypatch, "cuda", "cpu")
    create = providers.create

    def broken(path: Path, provider: str, threads: int, fingerprint: str) -> Any:
        if provider == "cuda" and how == "raises":
            raise BundleError("no model") from RuntimeError("libcudnn.so.9 is missing")
        return create(path, "cpu", threads, fingerprint)

    monkeypatch.setattr(session, "create", broken)
    pipe = runtime.load(TINY, provider="auto")
    with pytest.warns(ProviderWarning) as caught:
        images = pipe("a fox", seed=1)
    assert len({str(one.message) for one in caught}) == len(caught) == 1 and pipe.provider == "cpu"
    assert ("libcudnn" in str(caught[0].message)) == (how == "raises")
    assert images[0].tobytes() == runtime.load(TINY, provider="cpu")("a fox", seed=1)[0].tobytes()


def test_both_distributions_together_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime-1.32.0.dist-info").mkdir()
    (tmp_path / "onnxruntime_tools-1.0.dist-info").mkdir()
    assert installed_variants(tmp_path) == ["onnxruntime"]
    (tmp_path / "onnxruntime_gpu-1.32.0.dist-info").mkdir()
    assert installed_variants(tmp_path) == ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "onnxruntime" / "__init__.py"))
    with pytest.warns(ProviderWarning, match="pip uninstall onnxruntime onnxruntime-gpu") as caught:
        runtime.load(TINY)
        runtime.load(TINY)
    assert len(caught) == 1


def test_no_onnxruntime_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match="pip install onnxruntime"):
        runtime.load(TINY)


def bundle_with(tmp_path: Path, part: str, model: Path) -> Path:
    """A copy of the tiny bundle whose `part` is another model, rightly listed."""
    folder = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    shutil.copy(model, folder / part / "model.onnx")
    manifest = open_bundle(folder, verify=False).manifest
    facts = FileFacts(**describe_files(folder)[f"{part}/model.onnx"])
    write_manifest(folder, replace(manifest, files={**manifest.files, f"{part}/model.onnx": facts}))
    return folder


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae_decoder"])
def test_a_wrong_graph_is_named_with_what_it_should_take(tmp_path: Path, part: str) -> None:
    other = "unet" if part != "unet" else "vae_decoder"
    folder = bundle_with(tmp_path, part, TINY / other / "model.onnx")
    with pytest.raises(BundleError, match=f"{part}/model.onnx takes .* takes {session.ports_of(SD)[part].inputs[0]}"):
        runtime.load(folder)("a fox", seed=1)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model at all")
    folder = bundle_with(tmp_path, "unet", tmp_path / "x.onnx")
    with pytest.raises(BundleError, match="unet/model.onnx is not a model") as error:
        runtime.load(folder).open()
    assert "\n" not in str(error.value)


def test_a_model_of_other_shapes_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["latent_sample"], ["sample"])
    inputs = [value("latent_sample", TensorProto.FLOAT, [1, 9, 9, 9])]
    graph = helper.make_graph([node], "g", inputs, [value("sample", TensorProto.FLOAT, [1, 9, 9, 9])])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "x.onnx",
    )
    folder = bundle_with(tmp_path, "vae_decoder", tmp_path / "x.onnx")
    with pytest.raises(BundleError, match="vae_decoder/model.onnx .* has the shape 1x9x9x9, .* it is 1x"):
        runtime.load(folder)


def graph_of_types(path: Path, ids: int, rank: list[int]) -> Path:
    """A text encoder's or a U-Net's names with other types: identities with a cast."""
    value = helper.make_tensor_value_info
    if "text" in path.name:
        nodes = [helper.make_node("Cast", ["input_ids"], ["last_hidden_state"], to=TensorProto.FLOAT16)]
        inputs = [value("input_ids", ids, [1, 3])]
        outputs = [value("last_hidden_state", TensorProto.FLOAT16, [1, 3])]
    else:
        nodes = [helper.make_node("Mul", ["sample", "timestep"], ["out_sample"])]
        inputs = [
            value("sample", ids, [1, 2]),
            value("timestep", ids, rank),
            value("encoder_hidden_states", ids, [1]),
        ]
        outputs = [value("out_sample", ids, [1, 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_inputs_are_cast_to_what_the_graph_takes(tmp_path: Path, kind: int) -> None:
    one = Session("text_encoder", graph_of_types(tmp_path / "text.onnx", kind, []), "cpu")
    output = one.run(input_ids=np.array([[1, 2, 3]], np.int64))
    assert output.dtype == np.float32 and output.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("rank", [[], [1]])
def test_a_timestep_has_the_graphs_rank(tmp_path: Path, kind: int, rank: list[int]) -> None:
    one = Session("unet", graph_of_types(tmp_path / "unet.onnx", kind, rank), "cpu")
    sample = np.ones((1, 2), np.float32)
    assert one.run(sample=sample, timestep=999, encoder_hidden_states=[0.0]).tolist() == [[999, 999]]


def test_sessions_open_once_when_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    create = providers.create

    def counted(path: Path, provider: str, threads: int, fingerprint: str) -> Any:
        opened.append(path.parent.name)
        return create(path, provider, threads, fingerprint)

    monkeypatch.setattr(session, "create", counted)
    pipe = runtime.load(TINY)
    assert opened == []
    workers = [threading.Thread(target=pipe, args=("a fox",), kwargs={"seed": i}) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(opened) == ["text_encoder", "unet", "vae_decoder"]


STARVED = [
    "Non-zero status code returned while running Conv node. Status Message: bfc_arena.cc:360 Failed to allocate memory "
    "for requested buffer of size 4194304",
    "std::bad_alloc",
    "CUDA failure 2: out of memory ; GPU=0",
    "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
    "pthread_create failed, error code: 12 error msg: Cannot allocate memory",
    "",
]


@pytest.mark.parametrize("message", STARVED)
def test_running_out_of_memory_is_not_the_bundles_fault(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    pipe = runtime.load(TINY)
    pipe.open()

    def starve(*_: Any) -> None:
        raise RuntimeError(message) if message else MemoryError

    monkeypatch.setattr(Session, "_run", starve)
    with pytest.raises(
        runtime.MemoryLimitError, match="not enough memory for .*/model.onnx: free some, run fewer"
    ) as error:
        pipe("a fox", seed=7)
    assert not isinstance(error.value, BundleError) and isinstance(error.value, MemoryError)
    assert "\n" not in str(error.value)


def test_memory_may_run_out_when_a_graph_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADDKIT_CACHE", str(tmp_path))
    with runtime.load(TINY) as pipe:
        pipe.open()
    kept = sorted(tmp_path.rglob("model.onnx"))
    assert kept

    def starve(*_: Any, **__: Any) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", starve)
    with pytest.raises(runtime.MemoryLimitError, match="not enough memory"):
        runtime.load(TINY).open()
    assert sorted(tmp_path.rglob("model.onnx")) == kept  # nothing is wrong with the cache's contents


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_real_shortage_of_memory_is_told_as_such() -> None:
    code = f"""
import resource, runtime, sys
from pathlib import Path
pipe = runtime.load({str(TINY)!r}, threads=1)
pipe("a fox", seed=7)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 10_000_000,) * 2)
from runtime.ort.session import Session
import numpy as np
try:
    pipe._networks.sessions["vae_decoder"].run(latent_sample=np.zeros((16_384, 5, 4, 5)))
except runtime.MemoryLimitError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "not enough memory" in done.stdout, done.stderr
