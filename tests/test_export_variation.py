"""A checkpoint's variation.json: in the bundle, of no concern to diffusers, and the same pictures in both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runtime
from export.checks.measure import psnr_db
from export.onnx import __main__ as exporter
from export.onnx.export import export_onnx
from export.onnx.trace import Tracer
from export.source import open_source, read_variation
from runtime.bundle import open_bundle
from runtime.errors import UserError
from runtime.variation import Variation
from scripts.variation_cases import table
from tests.support.tiny import copied_graph, small_checkpoint

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with a table beside its model_index.json."""
    folder = tmp_path_factory.mktemp("varied") / "checkpoint"
    shutil.copytree(small_checkpoint(), folder)
    (folder / "variation.json").write_text(json.dumps(table()))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracer, "graph", copied_graph)
        export_onnx(open_source(str(checkpoint)), out)
    return out


def test_the_completed_prompt_draws_the_same_in_diffusers(checkpoint: Path, bundle: Path) -> None:
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(checkpoint)
    theirs.set_progress_bar_config(disable=True)
    ours, pictures = runtime.load(bundle, provider="cpu"), []
    for seed in SEEDS:
        (made,) = ours.run("a fox", seed=seed)
        assert made.prompt == Variation.from_json(table()).complete("a fox", seed) != "a fox"
        options = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "np"}
        drawn = theirs(made.prompt, generator=torch.Generator().manual_seed(seed), **options).images[0]
        bare = theirs("a fox", generator=torch.Generator().manual_seed(seed), **options).images[0]
        pictures.append(np.asarray(made.image) / 255)
        assert psnr_db(drawn, pictures[-1], peak=1.0) >= 50  # of pictures of 8 bits
        assert psnr_db(bare, pictures[-1], peak=1.0) < 50
    assert len({open_bundle(bundle).manifest.variation.complete("a fox", seed) for seed in SEEDS}) > 1  # type: ignore[union-attr]


def test_the_table_is_in_the_manifest_alone(bundle: Path) -> None:
    assert json.loads((bundle / "manifest.json").read_text())["variation"] == Variation.from_json(table()).to_json()
    assert not (bundle / "variation.json").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "the table is list, not an object"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "maximum recursion depth"),
        (json.dumps(table() | {"version": 3}), "version 3 is not known, only 1"),
        (json.dumps(table()).replace('"small": 0.3', '"small": -0.3'), "frequency of 'small' is -0.3"),
        (json.dumps(table()) + " " * 4_000_000, "bytes are too many, 2000000 at most fit a bundle"),
        (json.dumps(table() | {"ends": ["on", "with " * 30]}), "is no text of at most 100 letters"),
    ],
)
def test_a_damaged_table_stops_the_export_at_once(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    says: str,
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the networks must not be loaded")

    monkeypatch.setattr("export.source.load", load)
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (folder / "variation.json").write_text(text)
    assert exporter.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and str(folder / "variation.json") in err and "copy it from the data again, or remove it" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_table_that_is_too_large_for_a_bundle_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    large = table()
    large["kinds"]["food"]["words"] = [f"pizza number {i} {'x' * 60}" for i in range(25_000)]
    (tmp_path / "variation.json").write_text(json.dumps(large))
    with pytest.raises(UserError, match="bytes are too many"):
        read_variation(tmp_path)
    assert read_variation(small_checkpoint()) is None
