"""The benchmark's arithmetic, its workers, and what it says about engines that are not available."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.bench import report
from runtime.bench.engines import Engine, peer_folder
from runtime.bench.machine import spread
from runtime.bench.run import Run, Worker, cold, ratios, steady
from runtime.errors import Error

TINY = Path(__file__).parent / "golden" / "tiny_bundle"
ROOT = Path(__file__).parent.parent


def addkit() -> Run:
    return Run(Engine("addkit", str(TINY), "cpu", 1), "")


def test_ratios_are_turn_by_turn() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}
    assert ratios([1.0, 2.0, 3.0], [2.0, 2.0, 1.0]) == {"min": 0.5, "median": 1.0, "max": 3.0}


def test_turns_and_starts_are_measured() -> None:
    runs, steps = [addkit()], []
    steady(runs, 4, lambda: steps.append(1))
    cold(runs, 1, lambda: steps.append(1))
    assert len(runs[0].ms) == 4 and all(ms > 0 for ms in runs[0].ms)
    assert len(runs[0].cold_s) == 1 and 0.05 < runs[0].cold_s[0] < 60
    assert 20 < runs[0].peak_rss_mb < 1000 and len(steps) == 4 + 3 + 2


def test_a_peer_that_fails_is_not_run_and_the_others_are(tmp_path: Path) -> None:
    broken = Run(Engine("openvino", str(tmp_path), "cpu", 1), "")
    ours = addkit()
    steady([ours, broken], 2, lambda: None)
    assert len(ours.ms) == 2 and broken.ms == [] and broken.why
    facts = report.against(ours, broken)
    assert facts["status"] == "not run" and facts["why"]


def test_our_own_failure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match="addkit failed: .*is not a bundle"):
        steady([Run(Engine("addkit", str(tmp_path), "cpu", 1), "")], 1, lambda: None)


def test_a_worker_writes_the_picture_and_says_its_memory(tmp_path: Path) -> None:
    worker = Worker(addkit().engine)
    try:
        worker.ready()
        answer = worker.ask(prompt="a fox", seed=7, path=str(tmp_path / "fox.png"))
        assert answer["ms"] > 0 and (tmp_path / "fox.png").stat().st_size > 100
        assert worker.ask(stop=True)["peak_rss_mb"] > 10
    finally:
        worker.stop()


def test_peers_need_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Error, match="give --checkpoint DIR"):
        peer_folder("diffusers", TINY, None, tmp_path)
    assert peer_folder("optimum-int8", TINY, None, tmp_path) == TINY
    with pytest.raises(Error, match="it needs an export of .*: python -m export.onnx .* --out .*-onnx-fp32"):
        peer_folder("optimum", TINY, tmp_path / "none", tmp_path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.bench", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_the_command_reports_what_the_contract_names() -> None:
    done = run("--bundle", str(TINY), "--turns", "2", "--cold-runs", "1", "--against", "diffusers", "--json")
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    wanted = {
        "bundle",
        "provider",
        "threads",
        "cold_start_s",
        "latency_ms",
        "stages_ms",
        "images_per_s",
        "peak_rss_mb",
        "bundle_mb",
        "peers",
    }
    assert wanted <= facts.keys() and set(facts["latency_ms"]) == {"min", "median", "max"}
    assert {"text_encoder", "unet", "vae_decoder", "total"} <= facts["stages_ms"].keys()
    assert facts["peers"]["diffusers"]["status"] == "not run"
    assert "not run: " in report.table(facts) and "ms" in report.table(facts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "tensorrt"), "there is no peer 'tensorrt'"),
        (("--against", "openvino=nowhere"), "there is no folder nowhere"),
        (("--turns", "0"), "1 or more"),
        (("--bundle", "nowhere"), "there is no bundle nowhere"),
        (("--against", "diffusers", "--checkpoint", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: ")


@pytest.mark.slow
def test_diffusers_and_optimum_are_measured_beside_us(tmp_path: Path) -> None:
    done = run("--against", "diffusers,optimum-int8", "--turns", "2", "--cold-runs", "0", "--json")
    assert done.returncode == 0, done.stderr
    for peer in json.loads(done.stdout)["peers"].values():
        assert peer["status"] == "run", peer
        assert peer["latency_ratio"]["min"] > 0 and peer["peak_rss_ratio"] > 0
