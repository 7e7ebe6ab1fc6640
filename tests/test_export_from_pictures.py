"""Pictures from pictures with a variational autoencoder, as Stable Diffusion has it; diffusers' pipeline is the judge.

The posterior's noise comes first from the generator, then the run's, then that of the steps that take fresh noise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
from PIL import Image

import runtime
from export.checks.measure import psnr_db
from export.onnx.__main__ import main as export_onnx
from export.steps import steps_of
from runtime.manifest import step_entry
from scripts.zoo import PNDM, scheduler
from scripts.zoo_parts import fit_unet, fit_vae, kl, sd_unet
from tests.support.tiny import SMALL, make_pipeline

PROMPT, SIZE, SEED = "a red fox in the cat", 64, 5
TRAILING = {"timestep_spacing": "trailing", "steps_offset": 1}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": SMALL.hidden,
}
# Scheduler, its configuration, pairs of steps and strength.
CALLS: dict[str, tuple[str, dict[str, Any], tuple[tuple[int, float], ...]]] = {
    "SD-Turbo": ("EulerDiscreteScheduler", TRAILING, ((1, 1.0), (2, 0.5), (4, 0.75), (4, 0.3))),
    "ancestral": ("EulerAncestralDiscreteScheduler", TRAILING, ((2, 0.5), (4, 0.75))),
    "SD 1.5 by DDIM": ("DDIMScheduler", LEADING, ((2, 0.5), (4, 0.75), (4, 1.0))),
    "SD 1.5 by PNDM": ("PNDMScheduler", PNDM, ((2, 1.0), (4, 1.0))),
    "LCM-LoRA": ("LCMScheduler", {"original_inference_steps": 50}, ((1, 1.0), (2, 0.5), (4, 0.75))),
    "Hyper-SD": ("TCDScheduler", {"original_inference_steps": 50}, ((2, 0.5), (4, 0.75))),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD's U-Net with two levels, and its autoencoder with one layer each; fitted, so that pictures have contrast."""
    folder = tmp_path_factory.mktemp("pictures") / "model"
    pipe = make_pipeline(folder, SMALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = sd_unet(**LEVELS).eval()
        vae = kl(sample_size=SIZE, block_out_channels=(16, 16, 32, 32), norm_num_groups=8, layers_per_block=1).eval()
        fit_unet(unet, "epsilon", {"encoder_hidden_states": torch.randn(1, 77, SMALL.hidden)})
        fit_vae(vae, torch.randn(4, 4, 8, 8))
    kind, config, _ = CALLS["SD-Turbo"]
    pipe.register_modules(unet=unet, vae=vae, scheduler=scheduler(kind, **config))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "onnx"
    assert export_onnx([str(checkpoint), "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", CALLS)
def test_a_picture_to_start_from_is_encoded_and_noised_as_diffusers_does(
    name: str, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    kind, config, calls = CALLS[name]
    judge = StableDiffusionImg2ImgPipeline.from_pretrained(checkpoint, scheduler=scheduler(kind, **config))
    judge.set_progress_bar_config(disable=True)
    assert isinstance(judge.vae, AutoencoderKL)
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    if name != "SD-Turbo":  # the exporter wrote that one's steps; the networks are the same for all
        facts = json.loads((bundle / "manifest.json").read_text())
        counts = {steps for steps, _ in calls} | {1}
        facts["steps"] = {str(n): [step_entry(step) for step in steps_of(judge.scheduler, n)] for n in sorted(counts)}
        (folder / "manifest.json").write_text(json.dumps(facts))
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (4, 4, 3), np.uint8)).resize((SIZE, SIZE))
    distances = {}
    with runtime.load(folder, "cpu") as pipe:
        for steps, strength in calls:
            options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 0.0, "strength": strength}
            options |= {"image": picture, "output_type": "np"}
            expected = np.asarray(judge(PROMPT, generator=torch.Generator("cpu").manual_seed(SEED), **options).images)
            assert expected.std() > 0.05  # a picture, not a gray plane
            distances[steps, strength] = psnr_db(expected, pipe(PROMPT, seed=SEED, **options), peak=1.0)
    assert min(distances.values()) >= 60, distances
