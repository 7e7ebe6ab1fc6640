"""The four kinds of training with random networks of a few thousand weights: a run takes a second.

Also the main function of processes that are killed while training.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizerFast

from tests.support.train_fixtures import Parts, add_config
from train.autoencoder import DecoderSettings, DecoderTask, build_autoencoder, pca_of_patches, set_pca_encoder
from train.checkpoint import load_part
from train.data.corpus import load_corpus
from train.data.sources import MemorySource
from train.run import engine
from train.run.add_task import AddTask
from train.run.engine import Engine, settled
from train.run.loop import Trainer, start
from train.run.task import Task
from train.teacher import build_unet
from train.teacher_task import Surroundings, TeacherSettings, TeacherTask
from train.text_encoder import PhraseSettings, PhraseStudent, PhraseTask, build_text_encoder

STEPS = 4


@dataclass
class Toy:
    """A kind of training: its settings and its task, from tiny parts and a run folder."""

    settings: Callable[..., Any]  # (parts, run_dir, **changes)
    task: Callable[[Parts, Any, Engine], Task]


def add_settings(parts: Parts, run_dir: Path, **changes: Any) -> Any:
    return add_config(parts, run_dir, features="teacher", **common(changes))


def lesser(kind: Callable[..., Any], **own: Any) -> Callable[..., Any]:
    """Settings of one of the other three."""
    return lambda parts, run_dir, **changes: kind(run_dir=str(run_dir), **(own | common(changes)))


def common(changes: dict[str, Any]) -> dict[str, Any]:
    base = {"max_steps": STEPS, "batch": 4, "save_every": 1, "log_every": 1, "keep": 3, "threads": 1, "device": "cpu"}
    return base | {"lr": 1e-3} | changes


def teacher_task(parts: Parts, settings: Any, on: Engine) -> Task:
    torch.manual_seed(settings.seed)
    folder = Path(parts["teacher"])
    vae = load_part(AutoencoderTiny, folder / "vae").eval()
    text_encoder = load_part(CLIPTextModel, folder / "text_encoder").eval()
    tokenizer = load_part(CLIPTokenizerFast, folder / "tokenizer")
    corpus = load_corpus(Path(parts["data"]), "train", vae, text_encoder, tokenizer)
    unet = build_unet(4, 8, 16, widths=(16, 32), layers=(1, 2), attention=(False, True), time_width=32)
    around = Surroundings(vae.to(on.device), text_encoder.to(on.device), tokenizer)
    return TeacherTask(unet, MemorySource(corpus), around, ["a disc", "a square"], settings, on)


def decoder_task(parts: Parts, settings: Any, on: Engine) -> Task:
    torch.manual_seed(settings.seed)
    pictures = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    autoencoder = build_autoencoder(8, 8)
    set_pca_encoder(autoencoder, *pca_of_patches(pictures, 8))
    return DecoderTask(autoencoder, pictures[:8], pictures[8:], settings, on)


def phrase_task(parts: Parts, settings: Any, on: Engine) -> Task:
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(1)
    ids = [[62, *rng.integers(0, 60, size=rng.integers(1, 9)).tolist(), 63] for _ in range(30)]
    targets = rng.standard_normal((30, 384)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    student = PhraseStudent(build_text_encoder(width=16, layers=1, heads=2, vocab_size=64))
    return PhraseTask(student, ids, targets, settings, on)


TOYS = {
    "ADD": Toy(add_settings, lambda parts, settings, on: AddTask(settings, on)),
    "teacher": Toy(lesser(TeacherSettings, shared=0.5, student_layers=(1, 1), sample_steps=1), teacher_task),
    "autoencoder": Toy(lesser(DecoderSettings, crop=2), decoder_task),
    "text encoder": Toy(lesser(PhraseSettings), phrase_task),
}


def toy_trainer(name: str, parts: Parts, run_dir: Path, **changes: Any) -> Trainer:
    """A run that has taken no step yet."""
    settings = settled(TOYS[name].settings(parts, run_dir, **changes))
    on = start(settings, processes=True)
    return Trainer(TOYS[name].task(parts, settings, on), settings, on)


# ---- processes that die ----------------------------------------------------------------------------------------


def die(seconds: float = 0.0) -> None:
    """SIGKILL this process, now or while it goes on."""
    if seconds:
        threading.Timer(seconds, die).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(name: str, parts: Parts, run_dir: Path, where: str, seed: int) -> None:
    """Train until a random moment, or until a random file of the next checkpoint is half-written."""
    dice = random.Random(seed)
    trainer = toy_trainer(name, parts, run_dir)
    step, fatal_step = trainer.task.step, dice.randrange(1, STEPS - 1)
    left = [dice.randint(1, len(trainer.task.weights) + len(trainer.task.optimizers))]

    def step_with_a_timer(number: int) -> Any:
        if number == fatal_step:
            die(dice.uniform(0.001, 0.05))
        if number == STEPS - 1:  # the timer is still running
            threading.Event().wait()
        return step(number)

    def save_in_part(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        left[0] -= 1
        if not left[0]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()

    if where == "checkpoint":
        mock.patch("train.run.checkpoints.save_file", save_in_part).start()
    else:
        trainer.task.step = step_with_a_timer  # type: ignore[assignment, method-assign]
    trainer.run()
    sys.exit("the run ended before it was killed")


def networks(task: Task) -> dict[str, nn.Module]:
    """Every network that a task computes with, by what it is called there; networks within others are found, too."""
    found: dict[str, nn.Module] = {}
    pending: list[tuple[str, Any]] = [("", task)]
    seen: set[int] = set()
    while pending:
        name, thing = pending.pop()
        if id(thing) in seen or isinstance(thing, (str, bytes, np.ndarray, torch.Tensor, torch.optim.Optimizer)):
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            found[name] = thing
        elif type(thing).__module__.startswith("train.") and not isinstance(thing, engine.Engine):
            pending += [(f"{name}.{key}", value) for key, value in vars(thing).items()]
    return found
