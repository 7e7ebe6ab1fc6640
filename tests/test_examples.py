"""Every example runs as its first line says, and stays short enough to read."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image, ImageSequence

import addkit
from tests.support.tiny import small_checkpoint

ROOT = Path(__file__).parent.parent
EXAMPLES = {path.name: path for path in sorted((ROOT / "examples").glob("*.py"))}


def run(name: str, *arguments: str, folder: Path) -> list[str]:
    """The lines that an example prints, run in a folder of its own."""
    command = [sys.executable, str(EXAMPLES[name]), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def sheet() -> Image.Image:
    """A picture of another size than the bundle's."""
    return Image.radial_gradient("L").convert("RGB").resize((200, 150))


def same(path: Path, expected: Image.Image) -> bool:
    with Image.open(path) as found:
        return found.convert("RGB").tobytes() == expected.tobytes()


def test_there_are_six_and_each_is_10_to_30_lines() -> None:
    lengths = {name: path.read_text(encoding="utf-8").count("\n") for name, path in EXAMPLES.items()}
    assert len(lengths) == 6 and {name: n for name, n in lengths.items() if not 10 <= n <= 30} == {}


def test_the_readme_lists_them_all() -> None:
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|", text, flags=re.MULTILINE)) == sorted(EXAMPLES)


def test_every_example_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in EXAMPLES if text.count(f'"{name}"') == 0} == set()


def test_text_to_image(tmp_path: Path) -> None:
    (line,) = run("text_to_image.py", "a pizza, flat style", "pizza.png", folder=tmp_path)
    assert re.fullmatch(r"pizza\.png: a pizza, flat style, seed 7, \d+ ms on cpu", line)
    assert same(tmp_path / "pizza.png", addkit.generate("a pizza, flat style", seed=7))


def test_image_to_image(tmp_path: Path) -> None:
    sheet().save(tmp_path / "sketch.png")
    lines = run("image_to_image.py", "sketch.png", "a fox, flat style", "out", folder=tmp_path)
    assert lines == [str(Path("out", f"strength-{strength}.png")) for strength in (0.25, 0.5, 0.8)]
    start = np.asarray(sheet().resize((128, 128)), np.float32)
    apart = [np.abs(np.asarray(Image.open(tmp_path / line), np.float32) - start).mean() for line in lines]
    assert apart == sorted(apart) and apart[0] < apart[2]
    assert same(tmp_path / lines[2], addkit.generate("a fox, flat style", seed=7, image=sheet()))


def test_stream_of_frames(tmp_path: Path) -> None:
    (line,) = run("stream_of_frames.py", folder=tmp_path)
    assert re.fullmatch(r"orange\.webp: 12 frames, [\d.]+ per second", line)
    with Image.open(tmp_path / "orange.webp") as film:
        frames = [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(film)]
    assert len(frames) == len(set(frames)) == 12  # it moves


def test_bulk_from_python(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\na pizza\na whale\n", encoding="utf-8")
    lines = run("bulk_from_python.py", "prompts.txt", "out", folder=tmp_path)
    assert lines == [str(Path("out", f"0000{i}.png")) for i in range(3)]
    for seed, prompt in enumerate(("a fox", "a pizza", "a whale")):
        assert same(tmp_path / lines[seed], addkit.generate(prompt, seed=seed))


@pytest.mark.slow  # it exports for real
def test_bring_your_own_model(tmp_path: Path) -> None:
    model = str(small_checkpoint())
    first, last = run("bring_your_own_model.py", model, "bundle", "red fox", folder=tmp_path)
    assert re.fullmatch(r"bundle: [\d.]+ MB, made in [\d.]+ s", first)
    apart = re.fullmatch(r"diffusers\.png and runtime\.png differ by (\d+) of 255 at most", last)
    assert apart is not None and int(apart[1]) <= 1
    assert same(tmp_path / "runtime.png", addkit.generate("red fox", seed=7, bundle=tmp_path / "bundle"))
    with Image.open(tmp_path / "diffusers.png") as theirs:
        assert np.asarray(theirs).std() > 10  # pictures, not blanks


@pytest.fixture(scope="module")
def service() -> FastAPI:
    spec = importlib.util.spec_from_file_location("fastapi_service", EXAMPLES["fastapi_service.py"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: FastAPI = module.app
    return app


def get(service: FastAPI, **query: str | int) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/image.png", params=query)

    return asyncio.run(answer())


def test_fastapi_service_draws(service: FastAPI) -> None:
    found = get(service, prompt="a fox, 3d style", seed=7)
    assert found.status_code == 200 and found.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(found.content))
    assert found.headers["x-seed"] == "7" and image.tobytes() == addkit.generate("a fox, 3d style", seed=7).tobytes()
    seeds = {get(service, prompt="a fox").headers["x-seed"] for _ in range(2)}
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("query", "says"),
    [({"prompt": " "}, "the prompt is empty"), ({"prompt": "a", "steps": 9}, "num_inference_steps must be one of")],
)
def test_fastapi_service_says_what_is_allowed(service: FastAPI, query: dict[str, str | int], says: str) -> None:
    found = get(service, **query)
    assert found.status_code == 422 and says in found.json()["detail"]


def test_fastapi_service_is_busy_when_memory_is_short(service: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: object, **__: object) -> None:
        raise addkit.MemoryLimitError("none left")

    monkeypatch.setattr(addkit.Pipeline, "run", starve)
    assert get(service, prompt="a fox").status_code == 503
