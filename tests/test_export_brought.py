"""What people bring, made into a folder, draws as diffusers' own calls on the same files do."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from export.checkpoint.changes import SCHEDULERS, brought
from export.facts import checkpoint_sha256
from export.locate import locate
from export.source import open_folder
from runtime.errors import UserError
from scripts import zoo
from scripts.zoo_files import ATTENTION, factors, lora_file
from scripts.zoo_parts import lora_modules
from tests.test_zoo import draw, psnr
from train.checkpoint import load_pipeline
from train.opening.hub import name_of

CALL = {"timestep": None, "guidance_scale": None, "eta": 0.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@cache
def built(name: str, home: Path) -> Path:
    """One of the zoo's models, written once."""
    return zoo.build(name, home / name)


def options(checkpoint: Path | str, **given: Any) -> argparse.Namespace:
    """An exporter's arguments."""
    return argparse.Namespace(
        **{
            "variant": None,
            "config": None,
            "base": None,
            "vae": None,
            "lora": [],
            "scheduler": None,
            "height": None,
            "width": None,
            **CALL,
            **given,
        },
        checkpoint=checkpoint,
    )


def opened(folder: Path) -> Any:
    """diffusers' own pipeline."""
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize(
    ("name", "file", "scheduler", "scale"),
    [
        ("sd15-lcm-lora", "lcm-lora", "lcm", 0.8),
        pytest.param("sd15-hyper-sd", "hyper-sd", "tcd", 1.0, marks=pytest.mark.slow),
    ],
)
def test_a_lora_is_fused_as_diffusers_does(name: str, file: str, scheduler: str, scale: float, home: Path) -> None:
    folder = built(name, home)
    lora = folder / f"{file}.safetensors"
    made = brought(options(folder / "base", lora=[f"{lora}:{scale}"], scheduler=scheduler))
    assert name_of(locate(str(made))) == f"base+{file}"
    assert checkpoint_sha256(made) != checkpoint_sha256(folder / "base")

    pipe = opened(folder / "base")
    kind, more = SCHEDULERS[scheduler]
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **more)
    plain = draw(pipe, steps=2)
    pipe.load_lora_weights(str(folder), weight_name=lora.name)
    pipe.fuse_lora(lora_scale=scale)
    assert psnr(draw(load_pipeline(made), steps=2), draw(pipe, steps=2)) > 100
    assert psnr(draw(load_pipeline(made), steps=2), plain) < 40


@pytest.mark.parametrize("layout", ["peft", "diffusers", "kohya"])
def test_every_layout_of_keys_and_two_loras_at_once(layout: str, home: Path, tmp_path: Path) -> None:
    """Beside diffusers with both loaded and nothing fused; the second is of the text encoder too."""
    base = built("sd15-lcm-lora", home) / "base"
    pipe = opened(base)
    torch.manual_seed(3)
    one = lora_file(pipe.unet, tmp_path / "one.safetensors", layout, ends=ATTENTION)
    other = lora_file(pipe.unet, tmp_path / "other.safetensors", "kohya", ends=("to_v",))
    add_text(pipe.text_encoder, other)
    made = brought(options(base, lora=[f"{one}:0.7", f"{other}:-0.5"], scheduler="lcm"))
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    plain = draw(pipe)
    for path in (one, other):
        pipe.load_lora_weights(str(tmp_path), weight_name=path.name, adapter_name=path.stem)
    pipe.set_adapters(["one", "other"], [0.7, -0.5])
    assert psnr(draw(load_pipeline(made)), draw(pipe)) > 80 and psnr(draw(pipe), plain) < 40


def add_text(encoder: Any, path: Path) -> None:
    """Add a LoRA of the text encoder's queries to a file, and outputs, as kohya's trainer calls them."""
    tensors = load_file(path)
    for name, module in lora_modules(encoder, ("q_proj", "out_proj")).items():
        key = "lora_te_" + name.replace(".", "_")
        down, up = factors(module, 4)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up * 5, f"{key}.alpha": torch.tensor(4.0)}
    save_file(tensors, path)


@pytest.mark.parametrize("timestep", [399, 800])
def test_the_timestep_of_the_one_step_is_the_given_one(timestep: int, home: Path) -> None:
    """As authors write it: LCM's scheduler and `timesteps` in the call."""
    base = built("sd15-lcm-lora", home) / "base"
    made = brought(options(base, timestep=timestep))
    pipe = opened(base)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    assert psnr(draw(load_pipeline(made)), draw(pipe, timesteps=[timestep])) > 80
    assert psnr(draw(pipe), draw(pipe, timesteps=[timestep])) < 60
    source = open_folder(made)
    assert list(source.tables) == [1] and source.tables[1][0].timestep == timestep


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timestep": 1000}, "trained for 0 to 999"),
        ({"timestep": 399, "scheduler": "lcm"}, "leave them out"),
        ({"eta": 0.5}, "a PNDMScheduler does not take it"),
        ({"eta": 2.0, "scheduler": "tcd"}, "from 0 to 1"),
        ({"guidance_scale": 2.0}, "takes none as an input"),
        ({"guidance_scale": float("nan")}, "from 0 to 100"),
    ],
)
def test_what_the_checkpoint_cannot_be_given_is_refused(given: dict[str, Any], said: str, home: Path) -> None:
    with pytest.raises(UserError, match=said):
        brought(options(built("sd15-lcm-lora", home) / "base", **given))


def test_a_tiny_autoencoder_takes_the_place_of_the_other(home: Path) -> None:
    made = brought(options(built("sd-turbo", home), vae=built("taesd", home)))
    pipe = opened(built("sd-turbo", home))
    pipe.vae = AutoencoderTiny.from_pretrained(built("taesd", home))
    assert np.array_equal(draw(load_pipeline(locate(str(made)))), draw(pipe))
    assert name_of(made) == "sd-turbo+taesd"
    assert checkpoint_sha256(made) != checkpoint_sha256(built("sd-turbo", home))


def test_an_autoencoder_of_other_latents_is_refused(home: Path, tmp_path: Path) -> None:
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "taef1")
    with pytest.raises(UserError, match="its latents have 16 channels, the U-Net's 4"):
        brought(options(built("sd-turbo", home), vae=tmp_path / "taef1"))
    with pytest.raises(UserError, match=r"there is no config\.json"):
        brought(options(built("sd-turbo", home), vae=tmp_path))


def test_a_lora_of_another_model_is_refused_in_one_line(home: Path) -> None:
    lora = built("sd15-lcm-lora", home) / "lcm-lora.safetensors"
    with pytest.raises(UserError, match="does not fit") as told:
        load_pipeline(brought(options(built("sd-turbo", home), lora=[str(lora)])))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "said"), [("nowhere.safetensors", "there is no file"), ("a.safetensors:strong", "no scale")]
)
def test_a_mistyped_lora_is_refused_before_anything_is_opened(text: str, said: str, home: Path) -> None:
    with pytest.raises(UserError, match=said):
        brought(options(home, lora=[text]))


def test_a_model_of_the_hub_is_found_in_its_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = built("sd-turbo-hub", home) / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.chdir(home)
    for given in ("stabilityai/sd-turbo", str(hub / "models--stabilityai--sd-turbo")):
        folder = locate(brought(options(given)))
        assert folder.parent == hub / "models--stabilityai--sd-turbo" / "snapshots" and name_of(folder) == "sd-turbo"
    with pytest.raises(UserError, match="hf download stabilityai/sd-nothing"):
        brought(options("stabilityai/sd-nothing"))


def test_hf_home_names_the_cache_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(built("sd-turbo-hub", home)))
    monkeypatch.chdir(home)
    assert brought(options("stabilityai/sd-turbo")).parent.name == "snapshots"
