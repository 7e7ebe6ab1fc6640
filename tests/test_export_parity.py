"""The measures, and the report over several exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import parity
from export.measure import CAP_DB, measure, psnr_db
from export.onnx import export_onnx
from export.onnx_trace import Tracer
from export.source import open_source
from runtime.bundle import describe_files
from tests.tiny import copied_graph, make_checkpoint, small_checkpoint
from train.errors import run_command


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("parity") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracer, "graph", copied_graph)
        export_onnx(open_source(str(small_checkpoint())), out)
    return out


def command(argv: list[str], capsys) -> tuple[int, str, list[str]]:
    """(exit code, stdout, lines on stderr)."""
    code = 0
    try:
        run_command(parity.main, argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err.splitlines()


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


def test_the_report_has_the_contracts_form(bundle: Path, capsys) -> None:
    code, out, _ = command([str(small_checkpoint()), str(bundle), "--json"], capsys)
    assert code == 0
    (facts,) = json.loads(out)["exports"]
    assert (facts["path"], facts["format"], facts["precision"]) == (str(bundle), "onnx", "fp32")
    for entry in facts["modules"].values():
        assert entry.keys() == {"max_abs", "psnr_db", "status", "why"} and entry["status"] == "passed"
    assert facts["picture"]["psnr_db"] >= 50 and facts["picture"]["status"] == "passed"
    assert facts["size_mb"] > 0.5 and facts["load_s"] > 0 and facts["latency_ms"] > 0


def test_the_table_names_every_module(bundle: Path, capsys) -> None:
    _, out, _ = command([str(small_checkpoint()), str(bundle)], capsys)
    for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder", "picture", "passed", "ms a picture"):
        assert name in out


def test_a_worse_model_fails_with_exit_code_one(bundle: Path, tmp_path: Path, capsys) -> None:
    worse = shutil.copytree(bundle, tmp_path / "worse")
    path = worse / "vae_decoder" / "model.onnx"
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    changed = onnx.numpy_helper.to_array(weight) * 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, path)
    manifest = json.loads((worse / "manifest.json").read_text())
    manifest["files"] = describe_files(worse)
    (worse / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = command([str(small_checkpoint()), str(bundle), str(worse), "--json"], capsys)
    good, bad = json.loads(out)["exports"]
    assert code == 1
    assert (good["picture"]["status"], bad["picture"]["status"]) == ("passed", "failed")
    assert "below 50 dB" in bad["picture"]["why"]
    assert bad["modules"]["vae_decoder"]["psnr_db"] < good["modules"]["vae_decoder"]["psnr_db"]


def test_an_altered_file_is_one_line(bundle: Path, tmp_path: Path, capsys) -> None:
    altered = shutil.copytree(bundle, tmp_path / "altered")
    path = altered / "unet" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, lines = command([str(small_checkpoint()), str(altered)], capsys)
    assert code == 2 and len(lines) == 1 and "unet/model.onnx" in lines[0]


def test_what_is_no_export_is_one_line(tmp_path: Path, capsys) -> None:
    code, _, lines = command([str(small_checkpoint()), str(tmp_path)], capsys)
    assert code == 2 and len(lines) == 1 and "is no export" in lines[0]


def test_another_models_export_is_one_line(bundle: Path, tmp_path: Path, capsys) -> None:
    other = make_checkpoint(tmp_path / "other")
    code, _, lines = command([str(other), str(bundle)], capsys)
    assert code == 2 and len(lines) == 1 and "another model" in lines[0]
