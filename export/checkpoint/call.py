"""The options that stand for arguments of diffusers' call, which an export holds as constants."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.errors import UserError
from train.folders import read_json
from train.opening.call import Call

MOST_GUIDANCE = 100
NOISING = ("DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler")  # whose step takes eta


def add_call_options(parser: argparse.ArgumentParser) -> None:
    """Add --timestep, --guidance-scale and --eta."""
    parser.add_argument(
        "--timestep",
        type=int,
        metavar="T",
        help="of the one step, where the authors give it to the call: 399 for timesteps=[399]",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="G",
        help="of a U-Net that takes it as an input, as latent consistency models do (default: diffusers' own, 8.5)",
    )
    parser.add_argument(
        "--eta",
        type=float,
        default=0.0,
        metavar="E",
        help="noise that DDIM and TCD add after a step, 0 to 1 (default: 0)",
    )


def refuse_call(call: Call, folder: Path, scheduler: str | None) -> None:
    """Raise UserError for arguments that the checkpoint cannot be given.

    scheduler: the class that takes the place of the checkpoint's own, None where that stays.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    scale, name = call.guidance_scale, scheduler or config.get("_class_name")
    if scale is not None and not 0 <= scale <= MOST_GUIDANCE:
        raise UserError(f"--guidance-scale {scale:g}: a number from 0 to {MOST_GUIDANCE} is needed")
    if scale is not None and read_json(folder / "unet" / "config.json").get("time_cond_proj_dim") is None:
        raise UserError(
            f"--guidance-scale: the U-Net of {folder} takes none as an input: give guidance_scale to the runtime, "
            "which evaluates the U-Net twice"
        )
    if not 0 <= call.eta <= 1:
        raise UserError(f"--eta {call.eta:g}: a number from 0 to 1 is needed")
    if call.eta and name not in NOISING:
        raise UserError(f"--eta: a {name} does not take it, only DDIM and TCD do (--scheduler ddim or tcd)")
    if call.timestep is None:
        return
    last = int(config.get("num_train_timesteps", 1000)) - 1
    if not 0 <= call.timestep <= last:
        raise UserError(f"--timestep {call.timestep}: the model was trained for 0 to {last}")
    if scheduler or call.eta:
        raise UserError("--timestep is for one step, which needs neither --scheduler nor --eta: leave them out")
