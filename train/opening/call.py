"""What diffusers' users give a pipeline's call, kept beside a pipeline folder's parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.files import write_json
from train.folders import read_json

CALL = "call.json"
# DDIM whose one step, from noise to the picture, is at its steps_offset.
ONE_STEP = {"timestep_spacing": "leading", "set_alpha_to_one": True, "clip_sample": False, "thresholding": False}


@dataclass(frozen=True)
class Call:
    """Arguments of `StableDiffusionPipeline.__call__`, as far as an export must hold them.

    guidance_scale: of a U-Net that takes it as an input; None is the default of the pipeline's class. eta: how much
    noise DDIM and TCD add after a step, 0 to 1. timestep: the one step's, where it is not the scheduler's choice.
    """

    guidance_scale: float | None = None
    eta: float = 0.0
    timestep: int | None = None


DEFAULTS = Call()


def write_call(folder: Path, call: Call) -> None:
    """Note what differs from the defaults; `read_call` reads it."""
    if call != DEFAULTS:
        write_json(folder / CALL, {key: value for key, value in asdict(call).items() if value is not None})


def read_call(folder: Path) -> Call:
    """What is noted in a folder, the defaults where nothing is."""
    return Call(**read_json(folder / CALL)) if (folder / CALL).is_file() else DEFAULTS


def at_timestep(scheduler: Any, timestep: int) -> Any:
    """The scheduler with which a call without `timesteps` takes the one step that `timesteps=[timestep]` asks for.

    A pipeline sets steps_offset to 1 when it is opened, so it is given the scheduler afterwards.
    """
    import diffusers

    return diffusers.DDIMScheduler.from_config(scheduler.config, **ONE_STEP, steps_offset=timestep)
