"""Checkpoints that differ in one thing from most, exported whole: bundles draw what diffusers' own pipelines draw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, StableDiffusionPipeline

import runtime
from export.checks.measure import psnr_db
from export.onnx import __main__ as onnx
from export.openvino import __main__ as openvino
from export.openvino.genai import draw, opened
from tests.support.tiny import SMALL, make_pipeline

PROMPT = "a <frog-toy>, 3d style"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def checkpoint(folder: Path, change: Callable[[Any], None]) -> Path:
    """A small random checkpoint of one level after a change, as diffusers writes it."""
    pipe = make_pipeline(folder, replace(SMALL, channels=(16,)))
    change(pipe)
    pipe.save_pretrained(folder)
    return folder


def by_diffusers(folder: Path, prompt: str = PROMPT, **options: Any) -> np.ndarray:
    """A picture f32[H,W,3] in [0,1] by diffusers' own pipeline from seed 3."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    scheduler = options.pop("scheduler", None)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config) if scheduler else pipe.scheduler
    options = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "np"} | options
    return np.asarray(pipe(prompt, generator=torch.Generator().manual_seed(3), **options).images[0])


def by_runtime(bundle: Path, steps: int = 1) -> np.ndarray:
    """The same by a bundle."""
    return np.asarray(runtime.load(bundle, "cpu")(PROMPT, seed=3, num_inference_steps=steps, output_type="np")[0])


def db(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of pictures in [0,1]."""
    return psnr_db(one, other, peak=1.0)


def unusual(pipe: Any) -> None:
    """A token added, the encoder resized, "!" as padding, and a noise schedule of 2000 timesteps.

    The token is loud, so that a picture shows it.
    """
    pipe.tokenizer.pad_token = "!"
    pipe.tokenizer.add_tokens(["<frog-toy>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[-1].normal_(std=3.0)
    pipe.scheduler = EulerDiscreteScheduler(**BETAS, num_train_timesteps=2000, timestep_spacing="trailing")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("toy") / "toy", unusual)


def test_an_added_token_and_two_thousand_timesteps_in_an_onnx_bundle(toy: Path, tmp_path: Path) -> None:
    assert onnx.main([str(toy), "--out", str(tmp_path / "bundle")]) == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["steps"]["1"][0]["timestep"] == 1999
    for steps in (1, 4):
        assert db(by_diffusers(toy, num_inference_steps=steps), by_runtime(tmp_path / "bundle", steps)) > 60
    assert db(by_diffusers(toy), by_diffusers(toy, PROMPT.replace("<frog-toy>", "fox"))) < 40  # the token matters


def test_the_same_in_openvinos_folder(toy: Path, tmp_path: Path) -> None:
    assert openvino.main([str(toy), "--out", str(tmp_path / "folder")]) == 0
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3)).numpy()
    pipe = opened(tmp_path / "folder")
    for steps in (1, 4):
        expected = by_diffusers(toy, num_inference_steps=steps)
        assert db(expected, draw(pipe, PROMPT, [noise], steps) / 255) > 45


@pytest.mark.slow
@pytest.mark.parametrize("timestep", [399, 800])
def test_the_timestep_of_the_one_step(timestep: int, tmp_path: Path) -> None:
    """Distilled at one timestep, which the authors' call names: `timesteps=[399]`."""
    folder = checkpoint(tmp_path / "model", of_one_step)
    assert onnx.main([str(folder), "--timestep", str(timestep), "--out", str(tmp_path / "bundle")]) == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert list(manifest["steps"]) == ["1"] and manifest["steps"]["1"][0]["timestep"] == timestep
    expected = by_diffusers(folder, scheduler=LCMScheduler, num_inference_steps=None, timesteps=[timestep])
    assert db(expected, by_runtime(tmp_path / "bundle")) > 60
    assert db(expected, by_diffusers(folder)) < 60


def of_one_step(pipe: Any) -> None:
    """Epsilon, as published."""
    pipe.scheduler = DDIMScheduler(**BETAS, timestep_spacing="trailing", clip_sample=False)


@pytest.mark.slow
def test_the_timestep_in_openvinos_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", of_one_step)
    assert openvino.main([str(folder), "--timestep", "399", "--out", str(tmp_path / "folder")]) == 0
    expected = by_diffusers(folder, scheduler=LCMScheduler, num_inference_steps=None, timesteps=[399])
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3)).numpy()
    assert db(expected, draw(opened(tmp_path / "folder"), PROMPT, [noise]) / 255) > 45
