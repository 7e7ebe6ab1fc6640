"""`python -m train --preset NAME [key=value ...]` and `python -m train --resume RUN`: ADD distillation."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.command import Parser, command_parser, print_result, run_command, tell_lines
from runtime.errors import UserError
from runtime.files import check_folder
from train.config import Config, from_json
from train.presets import PRESETS, make_config

EXAMPLES = """examples:
  python -m train --preset demo run_dir=runs/first max_steps=200
  python -m train --preset sticker data=data/stickers run_dir=runs/sticker lr=5e-5
  python -m train --resume runs/first
The run folder gets checkpoints/, samples/, metrics.jsonl and pipeline/, the student as a diffusers folder."""


def chosen_config(args: argparse.Namespace) -> Config:
    if args.resume is None:
        return make_config(args.preset, args.overrides)
    path = args.resume / "config.json"
    if not path.is_file():
        raise UserError(f"{args.resume}: no run there (config.json is missing)")
    if args.overrides:
        raise UserError("--resume continues with the run's own settings; start a new run to change them")
    return dataclasses.replace(from_json(path.read_text()), run_dir=str(args.resume))  # wherever it is stored now


def parser() -> Parser:
    """The command line."""
    made = command_parser("train", __doc__, EXAMPLES, json=False)
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    which.add_argument("--resume", type=Path, metavar="RUN", help="continue a run from its newest checkpoint")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see train/config.py)")
    return made


def work(args: argparse.Namespace) -> None:
    """Train, and print the folder of the student's pipeline."""
    config = chosen_config(args)
    check_folder(config.run_dir)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from train.run.add_task import AddTrainer

    trainer = AddTrainer(config)
    if trainer.engine.is_main:
        tell_lines(trainer.task.describe())
    target = trainer.run()
    if trainer.engine.is_main:
        print_result(str(target))
    trainer.engine.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
