"""The zoo's models are real ones in small: diffusers' own pipelines open them, and draw what depends on everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from scripts import zoo

FOLDERS = [
    name for name in zoo.MODELS if not name.endswith(("-file", "-lora", "-hyper-sd", "-hub")) and name != "taesd"
]
FROM_NOISE = ("sd15", "bk-sdm-tiny", "small-sd", "ssd-1b")  # whose own schedulers are for twenty steps and more
QUICK = ("sd-turbo", "sdxs-512-0.9")


def marked(names: list[str]) -> list[Any]:
    """The names, all but a few of them for `make test-slow`."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def draw(pipe: Any, prompt: str = "a red fox", seed: int = 0, steps: int = 1, **more: Any) -> Any:
    """One picture of diffusers' own pipeline, f32[H,W,3] in [0,1]."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": steps, "guidance_scale": 0.0, "generator": generator, "output_type": "np"} | more
    return pipe(prompt, **options).images[0]


def psnr(one: Any, other: Any) -> float:
    """dB between two pictures in [0,1]."""
    return float(-10 * np.log10(np.mean((one - other) ** 2) + 1e-20))


@pytest.mark.parametrize("name", marked(FOLDERS))
def test_diffusers_opens_it_and_its_picture_depends_on_prompt_seed_and_padding(name: str, tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(zoo.build(name, tmp_path), local_files_only=True)
    if name in FROM_NOISE:
        pipe.scheduler = zoo.one_step(pipe.scheduler)
    picture = draw(pipe)
    assert np.isfinite(picture).all() and 0.1 < picture.std() < 0.4
    assert psnr(picture, draw(pipe, prompt="two old ships")) < 35
    assert psnr(picture, draw(pipe, seed=1)) < 20
    pipe.tokenizer.pad_token = "!" if pipe.tokenizer.pad_token != "!" else "<|endoftext|>"
    assert psnr(picture, draw(pipe)) < 30


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    one, other = (zoo.build("taesd", tmp_path / str(i)) for i in range(2))
    file = "diffusion_pytorch_model.safetensors"
    assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd-turbo-file", "sd15-file", "sdxl-turbo-file"])
def test_diffusers_converter_makes_the_folder_of_a_single_file_again(name: str, tmp_path: Path) -> None:
    folder = zoo.build(name, tmp_path)
    folder_pipe = DiffusionPipeline.from_pretrained(folder / "diffusers", local_files_only=True)
    kind, file = type(folder_pipe), next(folder.glob("*.safetensors"))
    pipe = kind.from_single_file(file, config=str(folder / "diffusers"), local_files_only=True)
    for part in [part for part, module in pipe.components.items() if isinstance(module, torch.nn.Module)]:
        made, wanted = (getattr(p, part).state_dict() for p in (pipe, folder_pipe))
        assert made.keys() == wanted.keys() and all(torch.equal(made[key], wanted[key]) for key in wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheduler"), [("sd15-lcm-lora", "LCMScheduler"), ("sd15-hyper-sd", "TCDScheduler")])
def test_diffusers_loads_the_lora(name: str, scheduler: str, tmp_path: Path) -> None:
    folder = zoo.build(name, tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(folder / "base", local_files_only=True)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    before = draw(pipe)
    pipe.load_lora_weights(folder, weight_name=next(folder.glob("*.safetensors")).name)
    assert psnr(draw(pipe), before) < 30


@pytest.mark.slow
def test_the_hub_finds_its_cache(tmp_path: Path) -> None:
    folder = zoo.build("sd-turbo-hub", tmp_path)
    pipe = DiffusionPipeline.from_pretrained(
        "stabilityai/sd-turbo", cache_dir=str(folder / "hub"), local_files_only=True
    )
    plain = DiffusionPipeline.from_pretrained(folder / "diffusers", local_files_only=True)
    assert np.array_equal(draw(pipe), draw(plain))


def test_the_configs_are_those_of_the_real_repositories(tmp_path: Path) -> None:
    folder = zoo.build("sd-turbo", tmp_path)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["_class_name"], scheduler["timestep_spacing"]) == ("EulerDiscreteScheduler", "trailing")
    assert json.loads((folder / "tokenizer" / "special_tokens_map.json").read_text())["pad_token"] == "!"
    assert json.loads((folder / "text_encoder" / "config.json").read_text())["hidden_act"] == "gelu"
