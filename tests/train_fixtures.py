"""Tiny data and a tiny teacher for the trainer's tests, made in a second or two."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.tiny import Shape, make_pipeline
from train.shards import Record, write_shard

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
            record = Record(f"{colour}-{shape}", captions, "plain", f"{colour}{shape}", "objects", 1.0)
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
    pipeline.save_pretrained(folder / "teacher")
    shutil.rmtree(folder / "scratch")
    return folder / "teacher"


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))
