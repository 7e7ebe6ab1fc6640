"""The small networks of the fashion yardstick: autoencoder, teacher, and what a student's run starts from."""

from __future__ import annotations

from pathlib import Path

import torch

from runtime.command import tell
from train import autoencoder, pairs, teacher
from train.ablation.rows import share_cache
from train.opening.resolve import resolve_checkpoint

PATCH, CHANNELS, SIDE = 4, 12, 8  # latents f32[12, 8, 8] of 32 pixels
DECODER_STEPS = 1500
WIDTHS, LAYERS, ATTENTION, TIME_WIDTH = (96, 128), (1, 1), (False, False), 256
TEXT = "sticker-128"  # whose text encoder reads the captions
TEACHER_STEPS, TEACHER_BATCH = 8000, 64
GUIDANCE, STEPS = 1.25, 25  # of the teacher's own pictures
PAIRS = 16_000


def decoder(data: Path, out: Path, threads: int) -> Path:
    """The autoencoder's folder OUT/autoencoder/vae, trained where it is not there."""
    command = (
        f"--patch {PATCH} --latent-channels {CHANNELS} --decoder-width 32 --crop {SIDE} --max-steps {DECODER_STEPS} "
        f"--batch 64 --save-every 500 --pictures 6000 --threads {threads}"
    )
    folder = out / "autoencoder"
    if not _finished(folder, DECODER_STEPS):
        tell("autoencoder")
        places = ["--data", str(data), "--out", str(folder)]
        autoencoder.trained(autoencoder.parser().parse_args([*places, *command.split()]))
    return folder / "vae"


def small_teacher(data: Path, out: Path, threads: int, steps: int = TEACHER_STEPS) -> Path:
    """The teacher's pipeline folder OUT/teacher/pipeline, trained where it is not there."""
    vae, folder = decoder(data, out, threads), out / "teacher"
    if _finished(folder, steps):
        return folder / "pipeline"
    tell("teacher")
    share_cache(out, folder)
    text = resolve_checkpoint(TEXT)
    command = (
        f"--max-steps {steps} --batch {TEACHER_BATCH} --shared 0 --last 0.1 --power 1 --lr 4e-3 "
        f"--decay-from 0.4 --save-every 1000 --guidance {GUIDANCE} --sample-steps {STEPS} --grad-clip 1 "
        f"--threads {threads}"
    )
    places = {"--data": data, "--vae": vae, "--text": text, "--out": folder}
    named = [word for pair in places.items() for word in map(str, pair)]
    torch.manual_seed(0)
    unet = teacher.build_unet(CHANNELS, SIDE, _text_width(), WIDTHS, LAYERS, ATTENTION, TIME_WIDTH)
    return teacher.trained(teacher.parser().parse_args([*named, *command.split()]), unet)


def teachers_pairs(data: Path, out: Path, teacher: Path, threads: int) -> Path:
    """The folder OUT/pairs of noise and the teacher's pictures, made where it is not there."""
    folder = out / "pairs"
    command = f"--n {PAIRS} --steps {STEPS} --guidance {GUIDANCE} --threads {threads} --batch 100"
    places = ["--data", str(data), "--teacher", str(teacher), "--out", str(folder)]
    return pairs.make(pairs.parser().parse_args([*places, *command.split()]))


def _text_width() -> int:
    from transformers import CLIPTextConfig

    return int(CLIPTextConfig.from_pretrained(resolve_checkpoint(TEXT) / "text_encoder").hidden_size)


def _finished(run: Path, steps: int) -> bool:
    """Whether a run's newest checkpoint is its last one, and its result was written."""
    result = (run / "pipeline" / "model_index.json").is_file() or (run / "vae" / "config.json").is_file()
    return result and (run / "checkpoints" / f"step-{steps}").is_dir()
