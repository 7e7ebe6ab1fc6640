"""Settings of an ADD run: one frozen dataclass, presets as functions, `key=value` overrides."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError

DEMO_SHARD = str(Path(__file__).resolve().parent / "demo_shard")  # 240 real pictures, in the source tree

CHOICES = {
    "init": ("pruned", "pretrained", "random"),
    "loss": ("both", "adv", "distill"),
    "conditioning": ("both", "text", "image", "none"),
    "weighting": ("exponential", "sds", "uniform"),
    "decoder": ("linear", "vae"),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. Lists are given as `key=1,2,3`."""

    teacher: str  # pipeline folder or the name of a shipped one
    data: str  # folder of shards made by train.data
    run_dir: str = "runs/add"
    max_steps: int = 1000
    seed: int = 0
    save_every: int = 250
    log_every: int = 20
    batch: int = 32  # pictures a student update
    adversarial_batch: int = 16  # of them, how many the discriminator sees
    threads: int = 0  # torch threads; 0 leaves torch's choice

    init: str = "pruned"
    layers: tuple[int, ...] = (1, 1, 1, 1)  # blocks the pruned student keeps in each stage
    mid_block: bool = True
    attention: tuple[bool, ...] = ()  # one entry a stage; false takes the stage's attention out; empty keeps all

    noise_levels: tuple[int, ...] = (999, 749, 499, 249)  # the student's timesteps (ADD: N = 4, the last is 1000)
    level_shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    loss: str = "both"
    adversarial_weight: float = 1.0
    distillation_weight: float = 2.5  # lambda of ADD eq. 1
    weighting: str = "exponential"
    guidance: float = 2.0  # of the teacher in the distillation loss
    reconstruction_weight: float = 0.0  # ||x0_student - x0||^2, ours: keeps learning captions while distilling
    text_dropout: float = 0.0
    decoder: str = "linear"  # how pictures are made for the discriminator and the pixel-space distances

    conditioning: str = "both"
    r1_weight: float = 1e-5
    discriminator_updates: int = 1
    discriminator_start: int = 0  # student updates before the adversarial loss sets in; the discriminator learns before
    lr: float = 1e-4
    lr_discriminator: float = 1e-3
    decay_from: float = 0.5  # share of the run after which the learning rates fall to 0
    ema: float = 0.99
    grad_clip: float = 1.0
    keep: int = 2  # checkpoints kept


def sticker() -> Config:
    """The release recipe: mostly one step, the captions kept in sight by the reconstruction term."""
    return Config(teacher="sticker-128-teacher", data="data/stickers", run_dir="runs/sticker", max_steps=400,
                  batch=24, adversarial_batch=12, level_shares=(0.85, 0.05, 0.05, 0.05), lr=3e-4,
                  lr_discriminator=5e-4, adversarial_weight=0.02, reconstruction_weight=1.0, guidance=1.5,
                  discriminator_start=20, grad_clip=0.3, save_every=100)


def smoke() -> Config:
    """A minute on a CPU: is everything in place?"""
    return dataclasses.replace(demo(), run_dir="runs/smoke", max_steps=6, save_every=3, log_every=1)


def demo() -> Config:
    """What `make demo` runs: the release recipe on a small shard, a student without attention or a middle block.

    Text still reaches every residual block of it; a dozen passes over the shard sharpen what it draws.
    """
    return dataclasses.replace(
        sticker(), data=DEMO_SHARD, run_dir="out/demo/run", max_steps=160, batch=16, adversarial_batch=8,
        mid_block=False, attention=(False, False, False, False), lr=8e-4, ema=0.95, save_every=80, log_every=5,
    )


PRESETS: dict[str, Callable[[], Config]] = {"smoke": smoke, "demo": demo, "sticker": sticker}


def make_config(preset: str, overrides: Sequence[str]) -> Config:
    """A preset with `key=value` overrides. Raises UserError on an unknown preset or key, or a value out of range."""
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    config = PRESETS[preset]()
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or key not in fields:
            raise UserError(f"{override!r}: expected key=value with a key of {', '.join(sorted(fields))}")
        changes[key] = _parse(key, text, fields[key])
    return check(dataclasses.replace(config, **changes))


def check(config: Config) -> Config:
    """The config itself; UserError when its values do not fit together."""
    for key, allowed in CHOICES.items():
        if getattr(config, key) not in allowed:
            raise UserError(f"{key}={getattr(config, key)}: choose one of {', '.join(allowed)}")
    if len(config.noise_levels) != len(config.level_shares):
        raise UserError("noise_levels and level_shares must have as many entries as each other")
    if not all(0 <= level <= 999 for level in config.noise_levels) or sum(config.level_shares) <= 0:
        raise UserError("noise_levels must lie in 0..999 and level_shares must not all be zero")
    if min(config.batch, config.adversarial_batch, config.max_steps, config.save_every, config.log_every) < 1:
        raise UserError("batch, adversarial_batch, max_steps, save_every and log_every must be at least 1")
    if config.adversarial_batch > config.batch:
        raise UserError(f"adversarial_batch={config.adversarial_batch} is more than batch={config.batch}")
    return config


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`. Raises UserError on unknown or missing keys."""
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()
        }
        return check(Config(**values))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json cannot be read: {error}") from error


def _parse(key: str, text: str, like: Any) -> Any:
    try:
        if isinstance(like, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(like, tuple):
            kind = like[0] if like else True  # the only tuple that may be empty holds flags
            return tuple(_parse(key, part, kind) for part in text.split(",")) if text else ()
        return type(like)(text)
    except (ValueError, KeyError) as error:
        raise UserError(f"{key}={text}: expected a value like {like}") from error
