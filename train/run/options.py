"""The flags that every training command but `python -m train` has, and what their values may be."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TypeVar

from runtime.errors import UserError
from train.config import DEVICES, PRECISIONS, RunSettings

ABOVE_NONE, MOST = 1e-12, 10**9
Ranges = dict[str, tuple[float, float]]  # the range of each number, ends included
RUN_RANGES: Ranges = {
    "max_steps": (1, MOST),
    "minutes": (0, MOST),
    "batch": (1, MOST),
    "log_every": (1, MOST),
    "save_every": (1, MOST),
    "seed": (0, 2**31),
    "threads": (0, 4096),
    "lr": (0, 1),
}
DRAWING_RANGES: Ranges = {"workers": (0, 256), "reuse": (1, 1000), "window": (1, 1000), "pool": (32, 10**6)}
PRECISION_HELP = "of matrix products; auto (default): bf16 where the device computes in it, else fp32"
Settings = TypeVar("Settings", bound=RunSettings)


def add_number(parser: argparse.ArgumentParser, flag: str, default: float, what: str = "", *also: str) -> None:
    """A flag with a number of its default's type; also: other names of it."""
    said = f"{what} (default {default:g})".strip()
    parser.add_argument(flag, *also, type=type(default), default=default, metavar="NUMBER", help=said)


def add_run_options(parser: argparse.ArgumentParser, saved: str, *save_flags: str, **defaults: int) -> None:
    """The flags of RunSettings: --max-steps, --batch, --log-every and --save-every have their defaults from here.

    saved: what else is made when a checkpoint is saved; save_flags: other names of --save-every.
    """
    add_number(parser, "--max-steps", defaults["max_steps"])
    add_number(
        parser, "--minutes", 0.0, "after which the run saves its state and gives out its result; 0: at --max-steps"
    )
    add_number(parser, "--batch", defaults["batch"])
    add_number(parser, "--log-every", defaults["log_every"], "steps between lines of OUT/metrics.jsonl")
    add_number(
        parser, "--save-every", defaults["save_every"], f"steps between checkpoints, each with {saved}", *save_flags
    )
    add_number(parser, "--seed", 0)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto (default): the GPU where there is one")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help=PRECISION_HELP)
    add_number(parser, "--threads", 0, "torch threads; 0 keeps torch's default")


def check_ranges(args: argparse.Namespace, ranges: Ranges) -> None:
    """Raises UserError when a number is out of its range, or NaN."""
    for name, (low, high) in ranges.items():
        if hasattr(args, name) and not low <= (value := getattr(args, name)) <= high:  # false for NaN, too
            raise UserError(f"{flag(name)} {value:g}: must lie in {low:g}..{high:g}")


def flag(name: str) -> str:
    """The flag that sets an argument."""
    return "--" + name.replace("_", "-")


def settings_of(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """Settings from the arguments of their names; the run's folder is --out."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(kind) if hasattr(args, field.name)}
    return kind(**{"run_dir": str(args.out), **given})
