"""What `train.bench` measures: steps of ours and of the naive loop in turns, or a single step of any size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from runtime.bench.machine import memory_mb
from runtime.command import tell_lines
from train.bench.naive import NaiveStep
from train.config import Config
from train.data.corpus import load_pictures
from train.progress import progress
from train.run.build import Parts, build
from train.run.ema import Ema
from train.run.engine import Engine, seed_step, settled
from train.sizes import describe_sizes, multiply_adds

WARM_UP = 2
LOSSES = ("loss_d", "loss_adv", "loss_distill", "loss_rec")


class Peer:
    """One way to take steps, timed."""

    def __init__(self, step: Callable[[int], dict[str, Any]], config: Config) -> None:
        self.step, self.batch, self.seed = step, config.batch, config.seed
        self.done = 0
        self.losses: list[dict[str, float]] = []

    def turn(self, count: int) -> float:
        """Take `count` steps; images per second."""
        synchronize()
        started = time.monotonic()
        for _ in range(count):
            seed_step(self.seed, self.done)
            measured = self.step(self.done)
            self.losses.append({name: float(measured[name]) for name in LOSSES if name in measured})
            self.done += 1
        synchronize()
        return count * self.batch / (time.monotonic() - started)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(config: Config, turns: int, steps: int) -> dict[str, Any]:
    """Rates of both in turns, their ratios, their losses, and seconds per part of our step."""
    config = settled(config)
    plain = replace(config, precision="fp32")
    ours_parts, naive_parts = (build(settings, Engine(settings)) for settings in (config, plain))
    records, pictures = load_pictures(Path(config.data), "train")
    by_key = {record.key: picture for record, picture in zip(records, pictures, strict=True)}
    ours_parts.timer.exact = True
    ours = Peer(ours_parts.step, config)
    naive = Peer(NaiveStep(plain, naive_parts, by_key), config)
    rates: dict[str, list[float]] = {"ours": [], "naive": []}
    with progress("turns", turns + 1) as advance:
        for turn in range(turns + 1):
            for name, peer in (("ours", ours), ("naive", naive)):
                rate = peer.turn(WARM_UP if turn == 0 else steps)
                if turn:
                    rates[name].append(rate)
            if turn == 0:
                ours_parts.timer.take()
            advance(1)
    ratios = [a / b for a, b in zip(rates["ours"], rates["naive"], strict=True)]
    seconds = ours_parts.timer.take()
    return {
        "images_per_s": {name: summary(values) for name, values in rates.items()},
        "ratio": summary(ratios),
        "seconds_per_step": {part: value / (turns * steps) for part, value in seconds.items()},
        "loss_difference": loss_difference(ours.losses, naive.losses),
        "batch": config.batch,
        "steps": turns * steps,
        "threads": torch.get_num_threads(),
        "device": str(ours_parts.step.engine.device),
        "losses": {"ours": ours.losses, "naive": naive.losses},
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def loss_difference(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> dict[str, float]:
    """For each loss: mean absolute difference of the two curves over the naive one's mean magnitude."""
    result = {}
    for name in LOSSES:
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) if name in a and name in b]
        if pairs:
            size = statistics.mean(abs(b) for _, b in pairs)
            result[name] = statistics.mean(abs(a - b) for a, b in pairs) / max(size, 1e-9)
    return result


def once(config: Config) -> dict[str, Any]:
    """Build the run and take a step, EMA update included: seconds, images per second, peak memory.

    On a GPU, also the fraction of what it reaches in a large bf16 matrix product.
    """
    started = time.monotonic()
    config = settled(config)
    parts = build(config, Engine(config))
    built = time.monotonic() - started
    tell_lines(describe_sizes({"teacher": parts.teacher, "student": parts.student}))
    parts.timer.exact = True
    ema = Ema(parts.student, config.ema)

    def step(number: int) -> dict[str, Any]:
        measured = parts.step(number)
        ema.update(parts.student, number + 1)
        return measured

    on_gpu = torch.cuda.is_available()
    turns = (1, 3) if on_gpu else (1,)  # on a GPU the first step also chooses kernels
    peer = Peer(step, config)
    rates = [peer.turn(count) for count in turns]
    result = {
        "images_per_s": rates[-1],
        "seconds_per_step": config.batch / rates[-1],
        "seconds_to_build": built,
        "seconds_by_part": parts.timer.take(),
        "losses": peer.losses[-1],
        "batch": config.batch,
        "peak_rss_mb": memory_mb(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }
    if on_gpu:
        result["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
        result["share_of_bf16_peak"] = step_flops(parts, config) * rates[-1] / config.batch / gpu_peak()
    return result


def step_flops(parts: Parts, config: Config) -> float:
    """Floating-point operations of the U-Nets in one step: student forward and backward, teacher with guidance."""
    passes = 4 if config.gradient_checkpointing else 3
    teacher = (2 if config.guidance != 1.0 else 1) * config.teacher_steps
    return 2.0 * config.batch * (passes * multiply_adds(parts.student) + teacher * multiply_adds(parts.teacher))


def gpu_peak(side: int = 8192) -> float:
    """bf16 operations per second that this card reaches in a large matrix product, measured."""
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    synchronize()
    started = time.monotonic()
    for _ in range(10):
        a @ a
    synchronize()
    return 10 * 2.0 * side**3 / (time.monotonic() - started)


def beyond_naive(config: Config) -> list[str]:
    """Settings that the naive loop would not honour, so that a ratio would compare different work."""
    known: dict[str, Any] = {
        "loss": "both",
        "space": "pixel",
        "teacher_steps": 1,
        "discriminator_updates": 1,
        "r1_every": 1,
        "micro_batch": 0,
    }
    wrong = [f"{key}={getattr(config, key)}" for key, value in known.items() if getattr(config, key) != value]
    wrong += ["features=teacher"] * (config.features == "teacher") + ["weighting=nfsd"] * (config.weighting == "nfsd")
    wrong += ["student=lora"] * (config.student == "lora") + ["guidance=1"] * (config.guidance == 1.0)
    return wrong + ["r1_weight=0"] * (config.r1_weight == 0)


def table(result: dict[str, Any]) -> str:
    """The report as text."""
    lines = []
    for name, values in (*result["images_per_s"].items(), ("ratio, ours / naive", result["ratio"])):
        lines.append(f"{name:<22}" + "".join(f"{key} {value:8.2f}   " for key, value in values.items()))
    lines.append("loss curves differ by  " + "  ".join(f"{k} {v:.1%}" for k, v in result["loss_difference"].items()))
    total = sum(result["seconds_per_step"].values())
    for part, seconds in sorted(result["seconds_per_step"].items(), key=lambda item: -item[1]):
        lines.append(f"  {part:<20}{seconds * 1000:8.1f} ms per step {seconds / total:6.1%}")
    return "\n".join(lines)
