"""The metrics, and the report over several exports: every engine, separate processes, the picture strip."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from rich.console import Console

from export.checks.measure import CAP_DB, measure, psnr_db
from export.checks.reference import Reference, StoredReference, save_reference, torch_network
from export.parity import __main__ as parity
from export.parity.engines import CPU, EVALUATOR, NEEDS, Engine, NotHere, engines, onnx_network
from export.parity.exports import open_export
from export.parity.strip import AMPLIFIED, BACKGROUND, Column, Layout, draw_strip
from export.parity.table import print_reports
from export.parity.worker import REFERENCE, job_of, run_apart, why_it_died
from export.source import open_source
from export.text import told
from runtime.bench.machine import memory_mb
from runtime.bundle import describe_files
from runtime.errors import UserError
from tests.support.coreml_small import small_coreml
from tests.support.tiny import SMALL, make_checkpoint, small_bundle, small_checkpoint, small_openvino

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="module")
def bundle() -> Path:
    return small_bundle()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(open_source(str(small_checkpoint())))


def altered(bundle: Path, out: Path, change) -> Path:
    """A copy whose decoder is changed, and which says that this is right."""
    shutil.copytree(bundle, out)
    path = out / "vae_decoder" / "model.onnx"
    change(path)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"] = describe_files(out)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def halve_a_weight(path: Path) -> None:
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    changed = onnx.numpy_helper.to_array(weight) * 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, path)


def command(argv: list[str], capsys) -> tuple[int, str, list[str]]:
    """(exit code, stdout, lines on stderr)."""
    code = parity.main(argv)
    printed = capsys.readouterr()
    return code, printed.out, printed.err.splitlines()


@pytest.fixture(scope="module")
def made(bundle: Path, tmp_path_factory) -> dict[str, Any]:
    """A report on four exports, of which one is worse: exit code, JSON, lines on stderr, the strip."""
    folder = tmp_path_factory.mktemp("report")
    worse = altered(bundle, folder / "worse", halve_a_weight)
    exports = (bundle, worse, small_coreml()[0], small_openvino())
    argv = [str(small_checkpoint()), *map(str, exports), "--json"]
    out, errors = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", errors)
        code = parity.main([*argv, "--strip", str(folder / "strip.png")])
    reports = json.loads(out.getvalue())["exports"]
    return {"code": code, "reports": reports, "errors": errors.getvalue(), "strip": folder / "strip.png"}


def test_psnr_by_hand() -> None:
    a = np.array([0.0, 1.0])
    assert psnr_db(a, a + 0.1) == pytest.approx(20.0)
    assert psnr_db(a, a + 0.1, peak=2.0) == pytest.approx(20 * np.log10(20))
    assert psnr_db(a, a) == CAP_DB
    assert psnr_db(a, np.array([0.0, np.nan])) == -CAP_DB
    assert psnr_db(np.zeros(2), np.ones(2)) == -CAP_DB


def test_a_module_fails_on_shape_and_nan() -> None:
    a = np.zeros((2, 3), np.float32)
    assert measure(a, a).status == "passed"
    assert "shape" in measure(a, a[:1]).why
    found = measure(a, a + np.inf)
    assert (found.status, found.psnr_db) == ("failed", None) and "NaN" in found.why


def test_the_report_has_the_contracts_form(made: dict[str, Any], bundle: Path) -> None:
    facts = made["reports"][0]
    assert (facts["path"], facts["format"], facts["precision"]) == (str(bundle), "onnx", "fp32")
    for entry in facts["modules"].values():
        assert entry.keys() == {"max_abs", "psnr_db", "status", "why"} and entry["status"] == "passed"
    assert tuple(facts["modules"]) == MODULES
    assert facts["picture"]["psnr_db"] >= 50 and facts["picture"]["status"] == "passed"
    assert facts["size_mb"] > 0.5 and facts["load_s"] > 0 and facts["latency_ms"] > 0 and facts["first_ms"] > 0
    assert sum(facts["modules_mb"].values()) <= facts["size_mb"] and set(facts["modules_mb"]) == set(MODULES)
    assert facts["recipe"]["attention"] and facts["warnings"] == [] and made["errors"] == ""


def test_memory_is_that_of_a_process_of_its_own(made: dict[str, Any]) -> None:
    """A test process that has traced and converted models holds more than one that loads an export."""
    facts = made["reports"][0]
    assert 0 < facts["added_rss_mb"] < facts["peak_rss_mb"] < memory_mb("VmHWM")


def test_every_engine_is_in_the_report_run_or_not(made: dict[str, Any]) -> None:
    runs = {run["engine"]: run for run in made["reports"][0]["runs"]}
    assert {CPU, *NEEDS} <= runs.keys() and runs[CPU]["status"] == "passed"
    for name, why in NEEDS.items():
        assert runs[name]["status"] != "not run" or runs[name]["why"] == why
    units = {run["engine"]: run for run in made["reports"][2]["runs"]}
    assert {EVALUATOR, "ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"} == units.keys()
    assert units[EVALUATOR]["status"] == "passed" and units[EVALUATOR]["latency_ms"] is None
    assert units["ALL"]["status"] in ("not run", "passed")
    devices = {run["engine"]: run for run in made["reports"][3]["runs"]}
    assert devices["CPU f32"]["status"] == "passed" and devices["CPU f32"]["latency_ms"] > 0
    assert {name.split()[0].split(".")[0] for name in devices} == {"CPU", "GPU", "NPU"}


def test_a_worse_export_fails_with_exit_code_one(made: dict[str, Any]) -> None:
    good, bad, *others = made["reports"]
    assert all(facts["picture"]["status"] == "passed" for facts in others)
    assert made["code"] == 1
    assert (good["picture"]["status"], bad["picture"]["status"]) == ("passed", "failed")
    assert "below 50 dB" in bad["picture"]["why"] and bad["runs"][0]["status"] == "failed"
    assert bad["modules"]["vae_decoder"]["psnr_db"] < good["modules"]["vae_decoder"]["psnr_db"]


def test_the_table_names_every_module_and_what_was_not_run(made: dict[str, Any]) -> None:
    page = StringIO()
    print_reports(made["reports"], Console(file=page, width=160))
    lines = page.getvalue().splitlines()
    for name in (*MODULES, "ms per picture", "peak MB", "passed", "failed", "reference evaluator"):
        assert any(name in line for line in lines), name
    assert any("failed on CPUExecutionProvider: below 50 dB" in line for line in lines)
    missing = [engine for engine in engines("onnx") if engine.why]
    assert all(any(engine.name in line and engine.why in line for line in lines) for engine in missing)
    columns = [line.index("passed") for line in lines if " passed " in line]
    assert len(set(columns)) == 1


def test_the_strip_shows_each_export_beside_pytorch(made: dict[str, Any]) -> None:
    strip = Image.open(made["strip"])
    layout = Layout(128, 128, 9, 4)
    assert strip.size == layout.size
    good, bad = (np.asarray(strip.crop(box(layout, column, 0)), int) for column in (2, 4))
    assert np.abs(good - 128).max() <= 1 and np.abs(bad - 128).max() > 20


def box(layout: Layout, column: int, row: int) -> tuple[int, int, int, int]:
    x, y = layout.x(column), layout.y(row)
    return x, y, x + layout.width, y + layout.height


@pytest.mark.parametrize("side", [64, 128, 512])
def test_differences_are_amplified_and_pictures_apart(side: int) -> None:
    reference = np.full((2, 3, side, side), 0.25, np.float32)
    close = reference + np.float32(1 / 255)
    columns = [
        Column(("onnx int8", "48.1 dB"), close, [48.1, 48.1]),
        Column(("broken", "-150 dB"), np.full_like(reference, np.nan), [-150.0, -150.0]),
    ]
    sheet = draw_strip(["a", "a prompt that is far too long " * 20], reference, columns)
    layout = Layout(max(side, 128), max(side, 128), 5, 2)
    assert sheet.size == layout.size
    middle = [sheet.crop(box(layout, column, 1)).getpixel((5, 5)) for column in range(5)]
    assert middle[:3] == [(64,) * 3, (65,) * 3, (128 + AMPLIFIED,) * 3] and middle[3] == (0, 0, 0)
    edges = [layout.x(column) - 1 for column in range(1, 5)]
    pale = Image.new("RGB", (1, 1), BACKGROUND).getpixel((0, 0))
    assert all(sheet.getpixel((x, layout.y(0) + 20)) == pale for x in edges)


def test_a_stored_reference_compares_as_the_checkpoint_itself(reference: Reference, tmp_path: Path) -> None:
    save_reference(reference, tmp_path / REFERENCE)
    stored = StoredReference(tmp_path / REFERENCE)
    network = torch_network(reference.source)
    ours, theirs = stored.compare(network, 50.0), reference.compare(network, 50.0)
    assert ours.to_json() == theirs.to_json() and ours.two_steps_db and ours.four_steps_db
    steps, worst = ours.worst_steps or (0, 0.0)
    assert worst == min(ours.two_steps_db, ours.four_steps_db) and steps in (2, 4)
    assert stored.drawn.shape == reference.pictures.shape


def test_too_little_memory_is_one_line_before_the_start(bundle: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("export.plan.free_memory", lambda: 10**8)
    code, _, lines = command([str(small_checkpoint()), str(bundle)], capsys)
    assert code == 2 and len(lines) == 1 and "the report needs about" in lines[0]
    without_runs(monkeypatch)
    assert command([str(small_checkpoint()), str(bundle), "--no-room-check"], capsys)[0] == 0


def test_a_large_models_reference_is_one_case_in_one_step(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("export.source.LARGE", 0)
    large = Reference(open_source(str(small_checkpoint())))
    save_reference(large, tmp_path / REFERENCE)
    stored = StoredReference(tmp_path / REFERENCE)
    found = stored.compare(large.network, 50.0)
    assert found.picture.status == "passed" and found.worst_steps is None and len(found.pictures_db) == 1


def test_a_graph_that_cannot_be_opened_is_a_failed_run(bundle: Path, reference: Reference, tmp_path: Path) -> None:
    broken = altered(bundle, tmp_path / "broken", lambda path: path.write_bytes(b"no graph"))
    save_reference(reference, tmp_path / REFERENCE)
    facts = json.loads((bundle / "manifest.json").read_text())
    found = run_apart(tmp_path, job_of(broken, "onnx", facts, Engine(CPU, {"provider": CPU}), 50.0))
    assert found["status"] == "failed" and "cannot be run" in found["why"] and "\n" not in found["why"]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_run(bundle: Path) -> None:
    if "CUDAExecutionProvider" in [engine.name for engine in engines("onnx") if not engine.why]:
        pytest.skip("CUDA is here")
    with pytest.raises(NotHere, match="CUDAExecutionProvider could not be started"):
        onnx_network(bundle, "CUDAExecutionProvider", one_step=False, told=told(open_source(str(small_checkpoint()))))


def test_a_process_that_died_says_of_what() -> None:
    assert "memory" in why_it_died(-9, "") and "signal 11" in why_it_died(-11, "")
    assert why_it_died(1, "Traceback\n  ...\nValueError: no\n") == "it cannot be run: ValueError: no"


def test_half_precision_of_a_device_is_judged_as_such(bundle: Path) -> None:
    export = open_export(bundle, open_source(str(small_checkpoint())))
    assert export.threshold_db(Engine("CPU")) == 50.0 and export.threshold_db(Engine("GPU", half=True)) == 35.0


def without_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.parity.compare.run_apart", lambda *_: {"status": "not run", "why": "for a test"})


def test_an_export_of_other_weights_is_warned_of(bundle: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    without_runs(monkeypatch)
    other = make_checkpoint(tmp_path / "other", SMALL, seed=1)
    code, out, lines = command([str(other), str(bundle), "--json"], capsys)
    assert code == 0 and len(lines) == 1
    assert lines[0].startswith(f"warning: {bundle} was made from another checkpoint (")
    (facts,) = json.loads(out)["exports"]
    assert facts["warnings"] and facts["picture"]["status"] == "not run"
    assert {entry["status"] for entry in facts["modules"].values()} == {"not run"}


def test_an_altered_file_is_one_line(bundle: Path, tmp_path: Path, capsys) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    path = damaged / "unet" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, lines = command([str(small_checkpoint()), str(damaged)], capsys)
    assert code == 2 and len(lines) == 1 and "unet/model.onnx" in lines[0]


def test_an_altered_package_is_one_line(tmp_path: Path, capsys) -> None:
    damaged = shutil.copytree(small_coreml()[0], tmp_path / "damaged")
    path = next(damaged.rglob("weight.bin"))
    path.write_bytes(path.read_bytes() + b"\0")
    code, _, lines = command([str(small_checkpoint()), str(damaged)], capsys)
    assert code == 2 and len(lines) == 1 and "weight.bin is altered" in lines[0]


def test_what_is_no_export_is_one_line(tmp_path: Path, capsys) -> None:
    code, _, lines = command([str(small_checkpoint()), str(tmp_path)], capsys)
    assert code == 2 and len(lines) == 1 and "is not an export" in lines[0]


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": "coreml"}', "lacks files, latent_shape"),
        (
            json.dumps(dict.fromkeys(("format", "precision", "name", "latent_shape", "scaling_factor", "files"), "x")),
            "unknown format 'x'",
        ),
    ],
)
def test_a_marker_of_another_form_is_one_line(marker: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(marker)
    with pytest.raises(UserError, match=said):
        open_export(tmp_path, open_source(str(small_checkpoint())))


def test_another_models_export_is_one_line(bundle: Path, tmp_path: Path, capsys) -> None:
    other = make_checkpoint(tmp_path / "other")
    code, _, lines = command([str(other), str(bundle)], capsys)
    assert code == 2 and len(lines) == 1 and "another model" in lines[0]


@pytest.mark.parametrize("path", ["nowhere/strip.png", "strip.jpg"])
def test_a_strip_that_cannot_be_written_is_told_at_once(path: str, bundle: Path, tmp_path: Path, capsys) -> None:
    code, _, lines = command([str(small_checkpoint()), str(bundle), "--strip", str(tmp_path / path)], capsys)
    assert code == 2 and len(lines) == 1 and path in lines[0]


def test_a_stopped_report_leaves_neither_files_nor_processes(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL); import sys; "
        "from export.parity.__main__ import main; "
        f"sys.exit(main(['{small_checkpoint()}', '{bundle}']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    while not list(tmp_path.glob("parity-*/job.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)  # which waits for whatever holds the pipes
    assert process.returncode == 128 + signal.SIGTERM and (out, errors) == ("", "stopped by SIGTERM\n")
    assert not list(tmp_path.glob("parity-*"))
