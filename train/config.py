"""Settings of an ADD run: one frozen dataclass, presets as functions, `key=value` overrides."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.schedule import trailing_timesteps

DEMO_WORLD = str(Path(__file__).resolve().parent / "demo_world")  # 192 real pictures and a table, in the source tree
DEMO_SHARD = str(Path(__file__).resolve().parent / "demo_shard")  # 240 real pictures, in the source tree
RANDOM_TEACHER = "random:"  # teacher=random:SHAPE makes a network of train/random_teacher.py in the run folder
DEVICES, PRECISIONS = ("auto", "cpu", "cuda"), ("auto", "bf16", "fp32")
CHOICES = {
    "student": ("full", "base", "small", "tiny", "no_hires_attention", "custom", "lora"),
    "loss": ("both", "adv", "distill"),
    "adversarial": ("hinge", "relativistic"),
    "features": ("mobilenet_v2", "dinov2", "teacher"),
    "conditioning": ("both", "text", "image", "none"),
    "weighting": ("exponential", "sds", "nfsd", "uniform"),
    "space": ("pixel", "latent"),
    "decoder": ("linear", "vae"),
    "streaming": ("auto", "true", "false"),
    "bad_data": ("error", "skip"),
    "device": DEVICES,
    "precision": PRECISIONS,
}
INITS = ("pruned", "pretrained", "random")
MOST = 1e9
RANGES = {
    "lr": (0.0, 1.0),
    "lr_discriminator": (0.0, 1.0),
    "grad_clip": (1e-12, MOST),
    "ema": (0.0, 1.0),
    "decay_from": (0.0, 1.0),
    "text_dropout": (0.0, 1.0),
    "compositions": (0.0, 0.99),
    "general": (0.0, 1.0),
    "partial": (0.0, 1.0),
    "adversarial_weight": (0.0, MOST),
    "distillation_weight": (0.0, MOST),
    "reconstruction_weight": (0.0, MOST),
    "adversarial_balance": (0.0, MOST),
    "regression_weight": (0.0, MOST),
    "r1_weight": (0.0, MOST),
    "r2_weight": (0.0, MOST),
    "guidance": (0.0, MOST),
    "seed": (0, 2**31),
    "minutes": (0.0, MOST),
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every run has, whatever it trains; the settings of a kind of training add their own."""

    run_dir: str
    max_steps: int = 1000
    minutes: float = 0.0  # after which a run saves its state and gives out its result; 0: at max_steps
    seed: int = 0
    save_every: int = 250  # steps between checkpoints; samples and scores are made at the same time
    log_every: int = 20
    # The batch is the same whatever the number of processes: micro-batches are accumulated to it.
    batch: int = 32  # pictures per update, over all processes
    micro_batch: int = 0  # pictures that one process handles at once; 0 is batch / processes
    device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one
    precision: str = "auto"  # bf16, fp32, or auto: bf16 where the device computes in it
    threads: int = 0  # torch threads; 0 keeps torch's default
    keep: int = 2  # newest checkpoints kept; the best one stays as well
    nan_limit: int = 3  # how often a run may go back to its last checkpoint after a value that is not finite


@dataclass(frozen=True)
class Config(RunSettings):
    """Everything that decides an ADD run. Lists are given as `key=1,2,3`, an empty one as `key=`."""

    teacher: str  # pipeline folder, the name of a shipped one, or random:SHAPE
    data: str  # folder of shards made by train.data, or a URL pattern such as https://host/train-{0000..0099}.tar
    run_dir: str = field(default="runs/add", kw_only=True)
    adversarial_batch: int = 0  # pictures of a batch that the discriminator sees; 0 is all

    # Data.
    streaming: str = "auto"  # true: read shards in a shuffled stream; false: all in memory; auto: by their number
    shuffle_shards: int = 4  # shards shuffled together in a stream
    bad_data: str = "error"  # what a corrupt shard or a NaN picture does
    cache_text: bool = True  # keep every caption's states on disk (false: encode them in every step)
    text_dropout: float = 0.0
    compositions: float = 0.0  # share of pictures from the data folder's composed-*.tar
    general: float = 0.15  # of a world: share of captions that do not name the thing itself
    partial: float = 0.35  # of a world: share of captions that leave some words out
    reuse: int = 8  # of a world: how often a picture is given, with other captions
    window: int = 1  # of a world: pools of pictures that are in use at once
    pool: int = 4096  # of a world: pictures drawn at a time
    workers: int = 0  # of a world: processes that draw pictures ahead

    # The student.
    student: str = "custom"  # block removal after BK-SDM; custom takes the three settings below
    layers: tuple[int, ...] = (1, 1, 1, 1)  # blocks that a custom student keeps in each stage
    mid_block: bool = True
    attention: tuple[bool, ...] = ()  # one entry per stage; false removes the stage's attention; empty keeps all
    init: str = "pruned"  # pruned, pretrained (the whole teacher), random, or a checkpoint to start from
    lora_rank: int = 16  # of student=lora
    student_steps: int = 4  # N: the student's noise levels are the trailing timesteps of N steps
    noise_levels: tuple[int, ...] = ()  # timesteps other than those of student_steps; the last of the paper's is 1000
    level_shares: tuple[float, ...] = ()  # how often each level is drawn; empty: equally often (ADD)
    zero_terminal_snr: bool = True  # at the noisiest level the student sees pure noise, as when it generates

    # The objective (ADD eq. 1).
    loss: str = "both"
    adversarial: str = "hinge"  # the game: hinge (ADD), or relativistic (R3GAN)
    adversarial_weight: float = 1.0
    adversarial_balance: float = 0.0  # size of its gradient relative to that of all other terms; 0: free
    distillation_weight: float = 2.5  # lambda
    weighting: str = "exponential"  # c(t)
    space: str = "pixel"  # where the distillation distance is taken
    guidance: float = 2.0  # of the teacher
    teacher_steps: int = 1  # network evaluations of the teacher per target
    negative_prompt: str = "blurry, low quality, ugly, low contrast"  # of weighting=nfsd
    reconstruction_weight: float = 0.0  # ||x0_student - x0||^2, ours: keeps learning captions while distilling
    pairs: str = ""  # folder made by train.pairs: noise, and the picture that the teacher makes of it
    pair_batch: int = 0  # pairs per update, beside the batch
    pairs_first: int = 0  # student updates from pairs alone, without teacher and discriminator, before all others
    regression_weight: float = 1.0  # ||x0_student(noise) - the teacher's picture of that noise||^2 (DMD's regression)
    decoder: str = "linear"  # how pictures are made for the discriminator and the pixel-space distances

    # The discriminator.
    features: str = "mobilenet_v2"
    features_path: str = "facebook/dinov2-small"  # of features=dinov2: a local folder, or a hub id in the local cache
    feature_side: int = 0  # pixels to which pictures are scaled for the features; 0: as they are
    conditioning: str = "both"
    r1_weight: float = 1e-5
    r2_weight: float = 0.0  # the same penalty on fakes (R3GAN)
    r1_every: int = 1  # discriminator updates between R1 and R2 terms; their weight is multiplied by it
    discriminator_updates: int = 1
    discriminator_start: int = 0  # student updates without the adversarial loss; the discriminator learns during them
    augment: bool = True  # DiffAugment

    # Optimization.
    lr: float = 1e-4
    lr_discriminator: float = 1e-3
    warmup: int = 20
    decay_from: float = 0.5  # share of the run after which the learning rates fall to 0
    ema: float = 0.99
    grad_clip: float = 1.0
    gradient_checkpointing: bool = False
    compile: bool = False
    score_pictures: int = 64  # pictures scored (KID-Lite0) at every checkpoint; 0: none, and the newest is the best

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The student's noise levels, noisiest first."""
        return self.noise_levels or tuple(trailing_timesteps(self.student_steps))

    @property
    def shares(self) -> tuple[float, ...]:
        """How often each of `timesteps` is drawn; sums to 1."""
        shares = self.level_shares or (1.0,) * len(self.timesteps)
        return tuple(share / sum(shares) for share in shares)


def check(config: Config) -> Config:
    """The config itself; UserError when its values do not fit together."""
    for key, allowed in CHOICES.items():
        if (value := getattr(config, key)) not in allowed:
            raise UserError(f"{key}={value}: choose one of {', '.join(allowed)}{nearest(str(value), allowed)}")
    _check_levels(config)
    _check_batches(config)
    at_least = {
        "max_steps": 1,
        "save_every": 1,
        "log_every": 1,
        "r1_every": 1,
        "discriminator_updates": 1,
        "teacher_steps": 1,
        "keep": 1,
        "lora_rank": 1,
        "shuffle_shards": 1,
        "reuse": 1,
        "window": 1,
        "pool": 1,
        "workers": 0,
        "pair_batch": 0,
        "pairs_first": 0,
        "feature_side": 0,
        "score_pictures": 0,
        "nan_limit": 0,
        "warmup": 0,
        "threads": 0,
    }
    for key, least in at_least.items():
        if getattr(config, key) < least:
            raise UserError(f"{key}={getattr(config, key)}: must be at least {least}")
    for key, (low, high) in RANGES.items():
        if not low <= (number := getattr(config, key)) <= high:  # false for NaN, too
            raise UserError(f"{key}={number}: must lie in {low:g}..{high:g}")
    if config.score_pictures == 1:
        raise UserError("score_pictures=1: a distribution needs more than one picture; 0 turns the score off")
    if bool(config.pairs) != bool(config.pair_batch):
        raise UserError(
            "pairs and pair_batch go together: a folder made by train.pairs, and how many of them per update"
        )
    if config.pairs_first and not config.pair_batch:
        raise UserError(f"pairs_first={config.pairs_first} needs pairs and pair_batch")
    if config.weighting == "nfsd" and config.teacher_steps > 1:
        raise UserError("weighting=nfsd uses one prediction of the teacher: set teacher_steps=1")
    return config


def _check_levels(config: Config) -> None:
    if not config.noise_levels and not 1 <= config.student_steps <= 1000:
        raise UserError(f"student_steps={config.student_steps}: must be 1 to 1000 (ADD trains 4)")
    if not all(0 <= level <= 999 for level in config.timesteps):
        raise UserError("noise_levels must lie in 0..999")
    if config.level_shares and len(config.timesteps) != len(config.level_shares):
        raise UserError(f"level_shares must have as many entries as there are noise levels ({len(config.timesteps)})")
    if config.level_shares and (min(config.level_shares) < 0 or sum(config.level_shares) <= 0):
        raise UserError("level_shares must not be negative, and not all zero")


def _check_batches(config: Config) -> None:
    if config.batch < 1 or config.micro_batch < 0:
        raise UserError("batch must be at least 1, and micro_batch at least 0")
    if not 0 <= config.adversarial_batch <= config.batch:
        raise UserError(f"adversarial_batch={config.adversarial_batch} must lie in 0..batch={config.batch}")
    if config.micro_batch and config.batch % config.micro_batch:
        raise UserError(f"batch={config.batch} is not a multiple of micro_batch={config.micro_batch}")


def to_json(config: RunSettings) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`. Raises UserError on unknown or missing keys."""
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()
        }
        return check(Config(**values))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"config.json cannot be read: {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """(did you mean X?)" for the known word most like `word`, "" when none is."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
