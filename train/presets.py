"""Presets, and settings as a user types them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from runtime.errors import UserError
from train.config import DEMO_SHARD, DEMO_WORLD, RANDOM_TEACHER, Config, check, nearest


def sticker() -> Config:
    """The release recipe: mostly one step, the captions kept in sight by the reconstruction term.

    The shipped student began as `train.teacher --student tiny` made it: init=runs/start/pipeline student=full.
    """
    return Config(
        teacher="sticker-128-teacher",
        data="data/stickers",
        run_dir="runs/sticker",
        max_steps=400,
        save_every=100,
        student="tiny",
        compositions=0.2,
        batch=24,
        adversarial_batch=12,
        level_shares=(0.85, 0.05, 0.05, 0.05),
        lr=3e-4,
        lr_discriminator=5e-4,
        adversarial_weight=0.02,
        reconstruction_weight=1.0,
        guidance=1.5,
        discriminator_start=20,
        grad_clip=0.3,
    )


def add() -> Config:
    """ADD where a caption has many pictures: `python -m train.ablation --data fashion` is its yardstick.

    Pairs give seeds a meaning, and two thirds of the run learn from them alone: such an update costs half of the
    game's. Without the balance the adversarial gradient is a hundred times the others', and each caption becomes one
    sharp picture; relative to what the pairs have left to learn it may be three times theirs. All noise is the last
    level's, since one step is what is asked for. A teacher's one step of a noisy picture is a mean: at ADD's weight of
    2.5 it takes the variety that the pairs give (Vendi 1.68 instead of 1.90), hence the tenth of it. The figures are
    in docs/log, 2026-11 and 2026-12.
    """
    return Config(
        teacher="runs/teacher/pipeline",
        data="data/mine",
        run_dir="runs/add",
        streaming="false",
        student="full",
        batch=32,
        pairs="runs/pairs",
        pair_batch=32,
        max_steps=1500,
        pairs_first=1000,
        student_steps=1,
        distillation_weight=0.25,
        lr=3e-3,
        lr_discriminator=1e-3,
        adversarial_balance=3.0,
        r1_weight=1e-3,
        feature_side=64,
        guidance=1.25,
        ema=0.98,
        score_pictures=0,
        keep=1,
    )


def smoke() -> Config:
    """A check that everything works: a minute on a CPU, with random tiny networks."""
    return Config(
        teacher=RANDOM_TEACHER + "tiny",
        data=DEMO_SHARD,
        run_dir="runs/smoke",
        max_steps=6,
        save_every=3,
        log_every=1,
        batch=8,
        layers=(1, 1, 1),
        score_pictures=16,
    )


def demo() -> Config:
    """What `make demo` runs: the release recipe on a small shard; a dozen passes over it sharpen what is drawn."""
    return dataclasses.replace(
        sticker(),
        data=DEMO_WORLD,
        run_dir="out/demo/run",
        max_steps=160,
        batch=16,
        adversarial_batch=8,
        compositions=0.0,
        lr=8e-4,
        ema=0.95,
        save_every=80,
        log_every=5,
    )


def sd21() -> Config:
    """A teacher of Stable Diffusion 2.1's size, from a local folder: the paper's batch, iterations and lambda.

    Unlike in the paper: MobileNetV2's features, unless features=dinov2, and a pruned student of 0.49 B.
    """
    return Config(
        teacher="models/stable-diffusion-2-1-base",
        data="data/pictures",
        run_dir="runs/sd21",
        max_steps=4000,
        batch=128,
        micro_batch=8,
        student="small",
        lr=1e-5,
        lr_discriminator=1e-4,
        decoder="vae",
        ema=0.999,
        gradient_checkpointing=True,
        cache_text=False,
        save_every=500,
    )


PRESETS: dict[str, Callable[[], Config]] = {"smoke": smoke, "demo": demo, "add": add, "sticker": sticker, "sd21": sd21}


def make_config(preset: str, overrides: Sequence[str]) -> Config:
    """A preset with `key=value` overrides. Raises UserError on an unknown preset or key, or a value out of range."""
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is unknown{nearest(preset, PRESETS)}; choose one of {', '.join(PRESETS)}")
    config = PRESETS[preset]()
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"{override!r}: expected key=value, such as batch=32")
        if key not in fields:
            raise UserError(f"{key!r} is not a setting{nearest(key, fields)}; train/config.py lists them all")
        changes[key] = _parse(key, text, fields[key])
    return check(dataclasses.replace(config, **changes))


def _parse(key: str, text: str, like: Any) -> Any:
    try:
        if isinstance(like, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(like, tuple):
            kind: Any = {"noise_levels": 0, "layers": 0, "level_shares": 0.0, "attention": True}[key]
            return tuple(_parse(key, part, kind) for part in text.split(",")) if text else ()
        return type(like)(text)
    except (ValueError, KeyError) as error:
        raise UserError(f"{key}={text}: expected a value like {like}") from error
