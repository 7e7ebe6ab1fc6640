"""The arrows between rooms match the picture in docs/ARCHITECTURE.md; runtime needs no torch."""

from __future__ import annotations

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from scripts.rooms import MODULES, ROOT, arrows, drawn_edges, imported, measured_edges, module_of, room_of, sources

TINY = ROOT / "tests" / "golden" / "tiny_bundle"
LIGHT = {"numpy", "PIL"}
# What single files of the runtime import on demand: extras, and the engines its benchmark compares with.
OPTIONAL = {
    "ray": {"runtime.batch.ray_pool"},
    "av": {"runtime.interpolate.video_file"},
    "coremltools": {"runtime.coreml"},
    "pillow_heif": {"runtime.decoding.files"},
    "segno": {"runtime.demo.address"},
    "c2pa": {"runtime.provenance.certificates", "runtime.provenance.sign"},
    "cryptography": {
        "runtime.provenance.certificates",
        "runtime.provenance.identity",
        "runtime.signature.bundle",
        "runtime.signature.envelope",
    },
    **{name: {"runtime.bench.engines"} for name in ("torch", "diffusers", "optimum", "openvino_genai")},
}
HEAVY = ("torch", "diffusers", "transformers", "onnx", "scipy", "safetensors", "model_signing")
MOST_FILES = 26  # per folder, so that a newcomer can find their way


def test_rooms_import_along_the_arrows_that_are_drawn() -> None:
    drawn, measured = drawn_edges(), measured_edges()
    assert len(drawn) > 15
    assert {room: sorted(ends) for room, ends in measured.items()} == {
        room: sorted(ends) for room, ends in drawn.items()
    }


def test_no_module_imports_itself_by_a_way_round() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_packages_import_along_their_order() -> None:
    order = {"runtime": 0, "train": 1, "export": 2, "addkit": 3}
    for room, ends in measured_edges().items():
        for end in ends:
            assert order[end.partition(".")[0]] <= order[room.partition(".")[0]], f"{room} imports {end}"


def test_no_folder_is_crowded() -> None:
    folders = [path.parent for path in MODULES.values()]
    assert {str(folder) for folder in folders if folders.count(folder) > MOST_FILES} == set()


def test_the_walk_sees_a_wrong_arrow(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from train.run import loop\n    import export.onnx\n")
    assert imported(path) == {"train.run.loop", "export.onnx"}
    assert room_of(module_of("train.run.loop")) == "train.run"
    assert room_of(module_of("runtime.errors.UserError")) == "runtime"
    assert module_of("torch.nn") == ""


def test_runtime_uses_numpy_and_pillow_and_names_onnxruntime_in_one_room() -> None:
    foreign: dict[str, set[str]] = {}
    for module, path in sources("runtime").items():
        tops = {name.partition(".")[0] for name in imported(path)}
        for top in tops - set(sys.stdlib_module_names) - {"runtime", "__future__"} - LIGHT:
            foreign.setdefault(top, set()).add(module)
    assert foreign.pop("onnxruntime") == {"runtime.ort.device", "runtime.ort.providers", "runtime.bench.engines"}
    assert {name: files for name, files in foreign.items() if files != OPTIONAL.get(name)} == {}


def test_no_file_shadows_a_name_that_it_must_not() -> None:
    assert not (ROOT / "runtime" / "generate.py").exists()
    assert (ROOT / "export" / "__init__.py").read_text() == ""
    assert not (ROOT / "tests" / "export").exists()


def run_python(code: str) -> str:
    """The output of a fresh interpreter, at the repository's root."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generating_loads_no_torch() -> None:
    code = f"""
import sys, runtime
image = runtime.generate("a fox", seed=1, bundle={str(TINY)!r})
assert image.size == (40, 32)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_importing_runtime_is_cheap() -> None:
    code = """
import sys, runtime
assert "generate" in dir(runtime) and "Pipeline" in dir(runtime)
assert len(dir(runtime)) == len(set(dir(runtime)))
print([name for name in ("numpy", "PIL", "onnxruntime", "runtime.pipeline") if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_tokenizer_and_schedule_need_no_onnxruntime() -> None:
    code = """
import sys, runtime.tokenizer, runtime.noise, runtime.schedule, runtime.pixels, runtime.bundle
print("onnxruntime" in sys.modules)
"""
    assert run_python(code).strip() == "False"
