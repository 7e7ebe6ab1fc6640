"""`python -m train --preset NAME [key=value ...]` and `python -m train --resume RUN`: ADD distillation."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from runtime.errors import UserError
from train.config import Config, from_json
from train.errors import run_command
from train.presets import PRESETS, make_config


def chosen_config(args: argparse.Namespace) -> Config:
    if args.resume is None:
        return make_config(args.preset, args.overrides)
    path = args.resume / "config.json"
    if not path.is_file():
        raise UserError(f"{args.resume}: no run there (config.json is missing)")
    if args.overrides:
        raise UserError("--resume goes on with the run's own settings; start a new run to change them")
    return dataclasses.replace(from_json(path.read_text()), run_dir=str(args.resume))  # wherever it lies now


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m train --preset demo run_dir=runs/first max_steps=200\n"
        "  python -m train --preset sticker data=data/stickers lr=5e-5\n  python -m train --resume runs/first",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    which.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run from its newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see train/config.py)")
    config = chosen_config(parser.parse_args(argv))
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from train.run.loop import AddTrainer

    trainer = AddTrainer(config)
    if trainer.engine.is_main:
        print(trainer.describe(), file=sys.stderr, flush=True)
    target = trainer.run()
    if trainer.engine.is_main:
        print(target)
    trainer.engine.close()


if __name__ == "__main__":
    run_command(main)
