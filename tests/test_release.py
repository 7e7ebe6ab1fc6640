"""The shipped model: its files are small enough, loaders agree on a picture, pictures depend on words and seeds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import runtime
from runtime.bundle import open_bundle, resolve_bundle
from train.checkpoint import load_pipeline
from train.opening.resolve import resolve_checkpoint

ROOT = Path(__file__).parent.parent
PROMPT, SEED = "pizza, 3d style", 7


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB between pictures f32 in [0, 1]."""
    return float(-10 * np.log10(np.square(one - other).mean() + 1e-12))


@pytest.fixture(scope="module")
def ours() -> np.ndarray:
    return np.asarray(runtime.load("sticker-128", provider="cpu")(PROMPT, seed=SEED, output_type="np")[0])


def test_every_committed_file_is_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert max(sizes.values()) <= 15_000_000
    bundle = sum(size for name, size in sizes.items() if name.startswith("runtime/bundles/"))
    checkpoints = sum(size for name, size in sizes.items() if name.startswith("checkpoints/"))
    assert 0 < bundle <= 60_000_000
    assert 0 < checkpoints <= 150_000_000


def test_the_bundles_files_are_those_of_its_manifest() -> None:
    bundle = open_bundle(resolve_bundle("sticker-128"))
    assert bundle.manifest.precision == "int8"
    assert bundle.manifest.image_size == (128, 128)


@pytest.mark.parametrize("name", ["sticker-128", "sticker-128-teacher"])
def test_diffusers_opens_the_checkpoint_unchanged(name: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(resolve_checkpoint(name), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(SEED)
    (image,) = pipeline(PROMPT, num_inference_steps=1, guidance_scale=0.0, generator=generator).images
    assert image.size == (128, 128)


def test_int8_is_close_to_the_checkpoint(ours: np.ndarray) -> None:
    pipeline = load_pipeline("sticker-128")
    generator = torch.Generator("cpu").manual_seed(SEED)
    theirs = pipeline(PROMPT, num_inference_steps=1, guidance_scale=0.0, generator=generator, output_type="np").images
    assert psnr(ours, theirs[0]) >= 30


def test_optimum_opens_the_bundle_and_agrees(ours: np.ndarray) -> None:
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pipeline = ORTStableDiffusionPipeline.from_pretrained(resolve_bundle("sticker-128"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(SEED)
    theirs = pipeline(PROMPT, num_inference_steps=1, guidance_scale=0.0, generator=generator, output_type="np").images
    assert psnr(ours, theirs[0]) >= 35


def test_words_and_seeds_both_matter(ours: np.ndarray) -> None:
    pipe = runtime.load("sticker-128", provider="cpu")
    again, other_seed, other_words = (
        np.asarray(pipe(prompt, seed=seed, output_type="np")[0])
        for prompt, seed in ((PROMPT, SEED), (PROMPT, SEED + 1), ("red heart, 3d style", SEED))
    )
    assert np.array_equal(again, ours)
    assert 0 < np.abs(other_seed - ours).mean() < np.abs(other_words - ours).mean()
