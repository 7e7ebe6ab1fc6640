"""Our implementations against the golden files, and the golden files against their references."""

from __future__ import annotations

import base64
import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import runtime
from runtime import pixels, schedule
from runtime.bundle import Manifest
from runtime.manifest import Step
from runtime.noise import randn
from runtime.sampler import Memory
from runtime.tokenizer import Tokenizer, Tokens
from runtime.variation import Variation
from scripts import golden, golden_cases, variation_cases
from tests.support.make_tiny_bundle import make

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
TINY = GOLDEN / "tiny_bundle"


def read(name: str, *known: str) -> dict[str, Any]:
    """A golden file; a field that this test does not read is an error, as a case could hide in it."""
    data = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    assert set(data) == {"reference", "count", "tolerance", *known}
    return data


def floats(bits: list[str]) -> np.ndarray:
    return np.array([int(text, 16) for text in bits], np.uint32).view(np.float32)


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many floats lie between two arrays, value by value."""

    def rank(x: np.ndarray) -> np.ndarray:
        whole = np.asarray(x, np.float32).view(np.int32).astype(np.int64)
        return np.where(whole < 0, -(whole & 0x7FFFFFFF), whole)

    return np.abs(rank(a) - rank(b))


def test_tokenizer() -> None:
    data = read("tokenizer.json", "max_tokens", "groups")
    assert data["tolerance"] == "exact"
    ran = 0
    for group in data["groups"]:
        tokens = Tokens.from_dict({name: group[name] for name in ("pad_id", "added")}) if "added" in group else None
        tokenizer = Tokenizer.from_folder(ROOT / group["tokenizer"], tokens)
        for case in group["cases"]:
            padding = [group["pad_id"]] * (data["max_tokens"] - len(case["ids"]))
            found = tokenizer.encode(case["text"], data["max_tokens"]).ids
            assert found.tolist() == case["ids"] + padding, case["text"]
            ran += 1
    assert ran == data["count"] > 1200


def test_noise() -> None:
    data = read("noise.json", "cases", "draws")
    ran = 0
    for case in data["cases"]:
        found = randn(int(case["seed"]), case["shape"])
        assert found.shape == tuple(case["shape"]) and found.dtype == np.float32
        far = ulps(found.ravel()[case["at"]], floats(case["bits"]))
        assert far.max() <= data["tolerance"]["ulp"], (case["seed"], case["shape"])
        ran += 1
    for case in data["draws"]:
        found = randn(int(case["seed"]), case["shape"], case["draw"])
        assert ulps(found.ravel()[case["at"]], floats(case["bits"])).max() <= data["tolerance"]["ulp"], case["shape"]
    assert ran == data["count"] > 200 and len(data["draws"]) > 20


def test_schedule() -> None:
    data = read("schedule.json", "config", "cases", "runs")
    alpha, sigma = schedule.from_scheduler_config(data["config"])
    relative = data["tolerance"]["relative"]
    ran = 0
    for case in data["cases"]:
        assert schedule.trailing_timesteps(case["steps"])[: len(case["timesteps"])] == case["timesteps"]
        for call in case["calls"]:
            check_call(call, case["prediction_type"], alpha, sigma, relative)
        ran += 1
    assert ran == data["count"] == 2 * len(golden_cases.STEP_COUNTS)


def test_runs_of_schedulers() -> None:
    """From a seed's noise to the last latents, with the outputs given: diffusers' schedulers ran them."""
    data = read("schedule.json", "config", "cases", "runs")
    for run in data["runs"]:
        steps = [Step(**row | {key: tuple(row[key]) for key in ("latents", "outputs")}) for row in run["steps"]]
        latents, memory = randn(run["seed"], run["shape"]) * np.float32(steps[0].noise_scale), Memory()
        for step, output in zip(steps, run["model_outputs"], strict=True):
            latents = memory.step(step, latents, floats(output).reshape(run["shape"]), run["seed"])
        expected = floats(run["expected"])
        tolerance = data["tolerance"]["relative"] * np.abs(expected).max()
        np.testing.assert_allclose(latents.ravel(), expected, rtol=0, atol=tolerance, err_msg=run["scheduler"])
    assert {run["scheduler"] for run in data["runs"]} >= {"EulerDiscreteScheduler", "LCMScheduler", "TCDScheduler"}


def check_call(call: dict[str, Any], kind: str, alpha: np.ndarray, sigma: np.ndarray, relative: float) -> None:
    now, after = call["timestep"], call["next_timestep"]
    level = (float(alpha[now]), float(sigma[now]))
    next_level = (float(alpha[after]), float(sigma[after])) if after >= 0 else schedule.CLEAN
    np.testing.assert_allclose([level[0], next_level[0]], floats(call["alphas"]), rtol=relative)
    np.testing.assert_allclose([level[1], next_level[1]], floats(call["sigmas"]), rtol=relative)
    of_latents, of_output = schedule.ddim_weights(kind, level, next_level)
    found = schedule.weighted_sum([(of_latents, floats(call["x"])), (of_output, floats(call["model_output"]))])
    expected = floats(call["expected"])
    np.testing.assert_allclose(found, expected, rtol=relative, atol=relative * np.abs(expected).max())


def test_pixels() -> None:
    data = read("pixels.json", "cases", "pictures")
    assert data["tolerance"] == "exact"
    found = pixels.to_uint8(floats([case["bits"] for case in data["cases"]]))
    assert found.tolist() == [case["expected"] for case in data["cases"]]
    for picture in data["pictures"]:
        image = pixels.to_image(floats(picture["bits"]).reshape(picture["shape"]))
        assert image.size == (picture["width"], picture["height"])
        assert list(image.tobytes()) == picture["rgb"]
    assert len(data["cases"]) + len(data["pictures"]) == data["count"] > 500


def test_variation() -> None:
    data = read("variation.json", "tables", "cases", "limited")
    assert data["tolerance"] == "exact"
    tables = {name: Variation.from_json(table) for name, table in data["tables"].items()}
    ran = 0
    for case in data["cases"]:
        table, given = tables[case["table"]], (case["prompt"], int(case["seed"]), case.get("chosen"))
        ran += 1
        if "completed" not in case:
            with pytest.raises(ValueError, match="variation "):
                table.complete(*given)
            continue
        assert table.complete(*given) == case["completed"]
        assert table.complete(case["completed"], int(case["seed"])) == case["completed"]  # nothing is left open
    limited = data["limited"]
    tokenizer, most = Tokenizer.from_folder(ROOT / limited["tokenizer"]), limited["max_tokens"]
    for case in limited["cases"]:
        found = tables[limited["table"]].complete(
            case["prompt"], int(case["seed"]), fits=lambda text: not tokenizer.encode(text, most).dropped_words
        )
        assert found == case["completed"]
        ran += 1
    assert ran == data["count"] > 300
    assert {case["completed"] == case["prompt"] for case in limited["cases"]} == {True, False}
    assert sum("completed" not in case for case in data["cases"]) == 2 * len(variation_cases.REFUSED)


def same_step(found: dict[str, Any], said: dict[str, Any]) -> bool:
    """Whether a step says what its manifest said, and how DDIM takes it where that gave its level alone."""
    weights = {key: list(found[key]) for key in ("latents", "outputs")}
    return found | weights == weights | said


def test_manifests() -> None:
    data = read("manifests/index.json", "cases")
    for case in data["cases"]:
        text = (GOLDEN / "manifests" / case["file"]).read_text(encoding="utf-8")
        if case["valid"]:
            found = Manifest.from_dict(json.loads(text)).to_dict()
            given = json.loads(text)["steps"]
            pairs = [(found["steps"][n][i], step) for n in given for i, step in enumerate(given[n])]
            assert all(same_step(step, said) for step, said in pairs) and found["steps"].keys() == given.keys()
            assert found | {"steps": given} == json.loads(text) | {
                "image_size": (32, 40),
                "latent_shape": (5, 4, 5),
                "licences": tuple(json.loads(text)["licences"]),
            }
            continue
        with pytest.raises(runtime.BundleError) as error:
            Manifest.from_dict(json.loads(text))
        assert "manifest.json" in str(error.value) and "\n" not in str(error.value), case
    files = {path.relative_to(GOLDEN / "manifests").as_posix() for path in GOLDEN.glob("manifests/*/*.json")}
    assert files == {case["file"] for case in data["cases"]}
    assert len(data["cases"]) == data["count"] > 20


def test_end_to_end() -> None:
    data = read("tiny_bundle/end_to_end.json", "height", "width", "cases")
    pipe = runtime.load(TINY)
    ran = 0
    for case in data["cases"]:
        options = {key: case[key] for key in case if key not in ("prompt", "seed", "rgb")}
        (image,) = pipe(case["prompt"], seed=int(case["seed"]), **options)
        assert image.size == (data["width"], data["height"])
        expected = np.frombuffer(base64.b64decode(case["rgb"]), np.uint8).astype(float)
        error = np.mean((np.asarray(image).ravel() - expected) ** 2)
        assert 10 * math.log10(255**2 / max(error, 1e-9)) >= data["tolerance"]["psnr_db"], case["prompt"]
        ran += 1
    assert ran == data["count"] >= 9


def test_default_bundle() -> None:
    data = read("default_bundle.json", "bundle", "height", "width", "cases")
    worse = copy.deepcopy(data)
    rgb = np.frombuffer(base64.b64decode(data["cases"][0]["rgb"]), np.uint8)
    for off, found in ((2, 0), (4, 1)):  # 42 and 36 dB; the file says 40
        worse["cases"][0]["rgb"] = base64.b64encode((rgb ^ np.uint8(off)).tobytes()).decode()
        assert len(golden.differences(data, worse, psnr_db=data["tolerance"]["psnr_db"])) == found
    assert data["bundle"] == "sticker-128"
    assert len(data["cases"]) == data["count"] == len(golden_cases.DEFAULT_BUNDLE)


def test_golden_files_are_what_the_references_compute() -> None:
    assert golden.check() == []


def test_the_tiny_bundle_is_what_its_script_makes(tmp_path: Path) -> None:
    make(tmp_path)
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "manifest.json"):
        committed = TINY / path.relative_to(tmp_path)
        if path.suffix == ".onnx":
            assert onnx.load(path).graph == onnx.load(committed).graph, committed
        else:
            assert path.read_bytes() == committed.read_bytes(), committed


def test_check_sees_a_difference() -> None:
    row = {"cases": [{"text": "a", "ids": [1, 2]}, {"bits": ["3f800000"]}]}
    worse = {"cases": [{"text": "a", "ids": [1, 3]}, {"bits": ["3f800002"]}]}
    assert len(golden.differences(row, worse)) == 2
    assert golden.differences(row, {"cases": [row["cases"][0], {"bits": ["3f800001"]}]}) == []
    assert golden.differences(row, {"cases": row["cases"][:1]}) != []
