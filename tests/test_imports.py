"""The arrows: export -> train -> runtime, export -> runtime, never back; runtime needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
OURS = ("runtime", "train", "export")
# importing package -> imported package -> modules that it may use; None is all of them.
EDGES: dict[str, dict[str, set[str] | None]] = {
    "runtime": {"runtime": None},
    "train": {"train": None, "runtime": {"tokenizer", "noise", "schedule", "pixels", "files", "errors"}},
    "export": {
        "export": None,
        "runtime": None,
        "train": {"student", "autoencoder", "text_encoder", "checkpoint", "errors", "progress"},
    },
}
# Modules that need more than their package: evaluating a bundle is running it, judging an export evaluating it.
WIDER = {("train/evaluate/__main__.py", "runtime"), ("export/checks/distance.py", "train")}
LIGHT = {"numpy", "PIL"}
# What single files of the runtime import when they are asked to: extras, and the peers of its benchmark.
OPTIONAL = {
    "ray": {"batch_ray.py"},
    "av": {"video.py"},
    "coremltools": {"coreml.py"},
    "segno": {"demo_address.py"},
    **dict.fromkeys(("torch", "diffusers", "optimum", "openvino_genai"), {"bench_engines.py"}),
}
HEAVY = ("torch", "diffusers", "transformers", "onnx", "scipy", "safetensors")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; "a.b" for `from a import b` too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", OURS)
def test_packages_import_along_the_arrows(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        for name in imported(path):
            top, _, rest = name.partition(".")
            if top not in OURS or (path.relative_to(ROOT).as_posix(), top) in WIDER:
                continue
            assert top in EDGES[package], f"{path} imports {name}"
            allowed = EDGES[package][top]
            assert allowed is None or rest.partition(".")[0] in allowed, f"{path} imports {name}"


def test_the_walk_sees_a_wrong_arrow(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from train import loop\n    import export.onnx\n")
    assert imported(path) == {"train.run.loop", "export.onnx"}


def test_runtime_uses_numpy_and_pillow_and_names_onnxruntime_once() -> None:
    foreign: dict[str, set[str]] = {}
    for path in sources("runtime"):
        tops = {name.partition(".")[0] for name in imported(path)}
        for top in tops - set(sys.stdlib_module_names) - {"runtime", "__future__"} - LIGHT:
            foreign.setdefault(top, set()).add(path.name)
    assert foreign.pop("onnxruntime") == {"bound.py", "providers.py", "bench_engines.py"}
    assert {name: files for name, files in foreign.items() if files != OPTIONAL.get(name)} == {}


def test_no_file_shadows_a_name_that_it_must_not() -> None:
    assert not (ROOT / "runtime" / "generate.py").exists()
    assert (ROOT / "export" / "__init__.py").read_text() == ""
    assert not (ROOT / "tests" / "export").exists()


def run_python(code: str) -> str:
    """The output of a fresh interpreter, at the repository's root."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
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
