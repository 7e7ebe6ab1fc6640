"""U-Nets that take the guidance scale as an input draw as diffusers draws with them at its default scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, UNet2DConditionModel

import runtime
from export.checkpoint.changes import brought
from export.checks.measure import psnr_db
from export.onnx.__main__ import main as export_onnx
from export.source import open_folder, open_source
from tests.support.tiny import SMALL, make_pipeline, spread
from tests.test_export_brought import options
from train.checkpoint import load_pipeline
from train.guidance import default_scale
from train.student import build_student

CLASSES = {"LatentConsistencyModelPipeline": 8.5, "StableDiffusionPipeline": 7.5}


def make_consistency_model(folder: Path, name: str) -> Path:
    """A small random checkpoint of a pipeline class whose U-Net takes the guidance scale."""
    parts = make_pipeline(folder, SMALL)
    torch.manual_seed(0)
    config = {key: value for key, value in parts.unet.config.items() if not key.startswith("_")}
    parts.unet = UNet2DConditionModel(**config | {"time_cond_proj_dim": 16}).eval()
    torch.nn.init.normal_(parts.unet.time_embedding.cond_proj.weight, std=0.5)
    spread(parts, SMALL)
    parts.scheduler = LCMScheduler.from_config(parts.scheduler.config)
    shown = {part: getattr(parts, part) for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    pipe = getattr(diffusers, name)(**shown, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder)
    return folder


def drawn(pipe: Any, steps: int, **options: float) -> np.ndarray:
    """A picture of diffusers' pipeline, f32[H,W,3] in [0,1]."""
    generator = torch.Generator().manual_seed(1)
    call = pipe("a red fox", num_inference_steps=steps, generator=generator, output_type="np", **options)
    return np.asarray(call.images[0])


def test_diffusers_own_defaults_are_asked() -> None:
    assert {name: default_scale(name) for name in CLASSES} == CLASSES


@pytest.mark.parametrize("name", CLASSES)
def test_the_folded_model_draws_as_diffusers_does(name: str, tmp_path: Path) -> None:
    folder = make_consistency_model(tmp_path / "model", name)
    own = getattr(diffusers, name).from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    source = open_source(str(folder))
    assert source.folded == {"guidance_scale": CLASSES[name]} and source.pipe.unet.config.time_cond_proj_dim is None
    for steps in (1, 2, 4):
        expected = drawn(own, steps)
        assert psnr_db(expected, drawn(source.pipe, steps, guidance_scale=0.0), peak=1.0) > 90
        if name == "LatentConsistencyModelPipeline":  # the scale changes the picture, so the comparison says something
            assert psnr_db(expected, drawn(own, steps, guidance_scale=1.0), peak=1.0) < 60


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_another_scale_is_folded_at_export(scale: float, tmp_path: Path) -> None:
    folder = make_consistency_model(tmp_path / "model", "LatentConsistencyModelPipeline")
    own = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    source = open_folder(brought(options(folder, guidance_scale=scale)))
    assert source.folded == {"guidance_scale": scale}
    for steps in (1, 4):
        expected = drawn(own, steps, guidance_scale=scale)
        assert psnr_db(expected, drawn(source.pipe, steps, guidance_scale=0.0), peak=1.0) > 90
        assert psnr_db(expected, drawn(own, steps), peak=1.0) < 60


def test_a_bundle_exported_at_another_scale_draws_as_diffusers_at_that_scale(tmp_path: Path) -> None:
    """By the commands that users type: exporter, then runtime, which is given prompt and seed alone."""
    folder = make_consistency_model(tmp_path / "model", "LatentConsistencyModelPipeline")
    own = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    assert export_onnx([str(folder), "--guidance-scale", "3.5", "--out", str(tmp_path / "bundle")]) == 0
    with runtime.load(tmp_path / "bundle", "cpu") as pipe:
        assert pipe.manifest.parity["recipe"]["guidance_scale"] == 3.5
        for steps in (1, 2, 4):
            found = pipe("a red fox", seed=1, num_inference_steps=steps, output_type="np")[0]
            assert psnr_db(drawn(own, steps, guidance_scale=3.5), found, peak=1.0) >= 60
            assert psnr_db(drawn(own, steps), found, peak=1.0) < 60


def test_a_student_of_such_a_teacher_takes_no_guidance(tmp_path: Path) -> None:
    teacher = load_pipeline(make_consistency_model(tmp_path / "model", "LatentConsistencyModelPipeline"))
    student = build_student(teacher.unet, "small")
    assert student.config.time_cond_proj_dim is None and student.time_embedding.cond_proj is None
    assert torch.equal(student.time_embedding.linear_1.bias, teacher.unet.time_embedding.linear_1.bias)


def test_other_models_are_left_alone() -> None:
    assert open_source("sticker-128").folded == {}
