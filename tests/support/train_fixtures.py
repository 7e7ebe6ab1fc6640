"""Tiny data and a tiny teacher for the trainer's tests, made in a second or two."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tests.support.tiny import Shape, make_pipeline, make_text_encoder, make_tokenizer, make_vae
from train.add.draws import Draws, draw
from train.config import Config
from train.data.encoders import Encoders
from train.data.shards import Record, write_shard
from train.latents import encode_all

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "brown", "pink")
TEACHER = Shape(channels=(16, 16, 32), groups=4, hidden=16, latent_channels=4, sample_size=8, vae_channels=8)


def picture(colour: str, shape: str, size: int = 64) -> Image.Image:
    """A coloured disc or square on white."""
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "disc" else pen.rectangle)((12, 12, size - 12, size - 12), fill=colour)
    return image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_data(folder: Path) -> Path:
    """Sixteen captioned 64x64 pictures in train-00000.tar, two in held_out-00000.tar."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for colour in COLOURS:
        for shape in ("disc", "square"):
            captions = (f"{colour} {shape}", f"a {shape}")
            record = Record(f"{colour}-{shape}", captions, facts={"concept": f"{colour}{shape}"})
            pairs.append((record, png(picture(colour, shape))))
    write_shard(folder / "train-00000.tar", pairs)
    write_shard(folder / "held_out-00000.tar", pairs[:2])
    return folder


def make_teacher(folder: Path) -> Path:
    """A random pipeline whose U-Net has two blocks a stage, so that there is something to prune."""
    from diffusers import UNet2DConditionModel

    pipeline = make_pipeline(folder / "scratch", TEACHER)
    config = dict(pipeline.unet.config, layers_per_block=2)
    unet = UNet2DConditionModel.from_config(config)
    pipeline.register_modules(unet=unet)
    spread = encode_all(pipeline.vae, np.stack([array(picture(colour, "disc")) for colour in COLOURS])).std()
    pipeline.vae.register_to_config(scaling_factor=float(1 / spread))  # latents of unit size, like a trained VAE's
    pipeline.save_pretrained(folder / "teacher")
    shutil.rmtree(folder / "scratch")
    return folder / "teacher"


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


Parts = dict[str, str]


def make_parts(folder: Path) -> Parts:
    """A tiny teacher and tiny data, as settings of a run."""
    return {"teacher": str(make_teacher(folder)), "data": str(make_data(folder / "data"))}


def add_config(parts: Parts, run_dir: Path, **changes: Any) -> Config:
    """Settings of a run that takes seconds."""
    settings: dict[str, Any] = {
        "run_dir": str(run_dir),
        "layers": (1, 1, 1),
        "max_steps": 4,
        "batch": 8,
        "save_every": 2,
        "log_every": 1,
        "lr": 1e-3,
        "score_pictures": 0,
        "threads": 1,
    }
    return Config(**(settings | parts | changes))


def some_draws(batch: int, shape: tuple[int, ...] = (4, 8, 8), step: int = 0) -> Draws:
    """Draws of one update without a run."""
    return draw(Config(teacher="", data="", batch=batch, features="teacher"), step, 0, shape)


def make_encoders(folder: Path) -> Encoders:
    """Random encoders of 32x32 pictures; the tokenizer's files go into `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = make_tokenizer(folder)
        return Encoders(make_vae(TEACHER), make_text_encoder(TEACHER, len(tokenizer)), tokenizer, 32)
