"""The options that change a checkpoint before its export: its parts, its scheduler, and what its call is given."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint.call import add_call_options, refuse_call
from export.locate import locate
from export.picture_size import latents_for, latents_of, side_factor
from runtime.errors import UserError
from runtime.files import write_json
from train.folders import read_json
from train.opening.call import DEFAULTS, Call, write_call
from train.opening.hub import MOST_NAME, name_of
from train.opening.loras import write_loras
from train.opening.models import MODELS
from train.opening.resolve import new_folder

# Each as the authors of the LoRAs for it write: `CLASS.from_config(pipe.scheduler.config, ...)`.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
TINY = "AutoencoderTiny"


@dataclass(frozen=True)
class Changes:
    """What is changed; the defaults change nothing. loras: (file, scale); height, width: of the picture, in pixels."""

    vae: Path | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None
    call: Call = DEFAULTS


def add_change_options(parser: argparse.ArgumentParser) -> None:
    """Add --config, --base, --vae, --lora, --scheduler, --height, --width and those of a call."""
    parser.add_argument(
        "--config",
        metavar="NAME|FOLDER",
        help=f"which model a single file is, where its name does not say: {', '.join(MODELS)}, or a pipeline folder of "
        "its structure",
    )
    parser.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help="the pipeline with the other parts, where CHECKPOINT is a U-Net alone (LCM's and other distilled ones)",
    )
    parser.add_argument("--vae", type=Path, metavar="FOLDER", help="an autoencoder in place of the checkpoint's: TAESD")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="a LoRA file, kohya's or PEFT's keys, fused before the export; may be given several times",
    )
    parser.add_argument(
        "--scheduler",
        choices=sorted(SCHEDULERS),
        help="in place of the checkpoint's: lcm for LCM-LoRA, tcd for Hyper-SD's one step, ddim or euler (trailing)",
    )
    for side in ("height", "width"):
        parser.add_argument(
            f"--{side}", type=int, metavar="PIXELS", help=f"the pictures' {side} (default: the one that the model has)"
        )
    add_call_options(parser)


def lora_of(text: str) -> tuple[Path, float]:
    """(file, scale) of "FILE[:SCALE]". Raises UserError."""
    path, scale = Path(text), 1.0
    if not path.is_file() and ":" in text:
        name, _, number = text.rpartition(":")
        try:
            path, scale = Path(name), float(number)
        except ValueError as error:
            raise UserError(f"--lora {text}: {number!r} after the colon is no scale, such as 0.8") from error
    if not path.is_file():
        raise UserError(f"--lora {text}: there is no file {path}")
    if path.suffix != ".safetensors":
        raise UserError(f"--lora {text}: only .safetensors files are opened")
    return path, scale


def brought(args: argparse.Namespace) -> Path:
    """The folder that the options name, checked, with their changes made. Raises UserError, one line.

    args: with checkpoint, variant, and what `add_change_options` adds. A folder with changes consists of links, and
    lasts as long as the process.
    """
    call = Call(args.guidance_scale, args.eta, args.timestep)
    loras = tuple(map(lora_of, args.lora))
    changes = Changes(args.vae, loras, args.scheduler, args.height, args.width, call)
    folder = locate(args.checkpoint, args.variant, args.config, args.base)
    if changes == Changes():
        return folder
    vae = vae_config(changes.vae, folder) if changes.vae else {}
    latents = latent_sides(folder, vae, changes)
    refuse_call(changes.call, folder, SCHEDULERS[changes.scheduler][0] if changes.scheduler else None)
    made = new_folder(changed_name(folder, changes))
    write_changed(made, folder, changes, vae, latents)
    return made


def changed_name(folder: Path, changes: Changes) -> str:
    """The checkpoint's name and what was added to it."""
    added = [path.stem for path, _ in changes.loras] + ([changes.vae.resolve().name] if changes.vae else [])
    return "+".join([name_of(folder), *added])[:MOST_NAME]


def vae_config(vae: Path, folder: Path) -> dict[str, Any]:
    """The configuration of the autoencoder that takes the place of another. Raises UserError when it does not fit."""
    if not (vae / "config.json").is_file():
        raise UserError(f"--vae {vae}: there is no config.json; give the folder of a diffusers autoencoder")
    config = read_json(vae / "config.json")
    name = str(config.get("_class_name"))
    if name not in (TINY, "AutoencoderKL"):
        raise UserError(f"--vae {vae}: a {name} is not exported, only {TINY} or AutoencoderKL")
    channels = config.get("latent_channels", 4)
    wanted = read_json(folder / "unet" / "config.json").get("in_channels", 4)
    if channels != wanted:
        raise UserError(f"--vae {vae}: its latents have {channels} channels, the U-Net's {wanted}")
    return config


def write_changed(
    made: Path, folder: Path, changes: Changes, vae: dict[str, Any], latents: tuple[int, int] | None
) -> None:
    """A pipeline folder that links to what stays the same and holds what is changed."""
    index = read_json(folder / "model_index.json")
    replaced = {"vae": bool(vae), "scheduler": bool(changes.scheduler), "unet": bool(latents)}
    link_all(made, folder, but={"model_index.json", *(part for part, changed in replaced.items() if changed)})
    if latents:
        (made / "unet").mkdir()
        link_all(made / "unet", folder / "unet", but={"config.json"})
        config = read_json(folder / "unet" / "config.json") | {"sample_size": list(latents)}
        write_json(made / "unet" / "config.json", config)
    if changes.vae:
        index["vae"] = ["diffusers", vae["_class_name"]]
        (made / "vae").symlink_to(changes.vae.resolve())
    if changes.scheduler:
        index["scheduler"] = ["diffusers", SCHEDULERS[changes.scheduler][0]]
        scheduler_of(folder, changes.scheduler).save_pretrained(made / "scheduler")
    if changes.loras:
        write_loras(made, changes.loras)
    write_call(made, changes.call)
    write_json(made / "model_index.json", index)


def link_all(made: Path, folder: Path, but: set[str]) -> None:
    """Links in `made` to everything in a folder, except some names."""
    for path in folder.iterdir():
        if path.name not in but:
            (made / path.name).symlink_to(path.resolve())


def latent_sides(folder: Path, vae: dict[str, Any], changes: Changes) -> tuple[int, int] | None:
    """(height, width) of the latents for the size that is asked for, None where none is. Raises UserError.

    vae: the configuration of another autoencoder, empty where the checkpoint's stays.
    """
    if changes.height is None and changes.width is None:
        return None
    factor = side_factor(vae or read_json(folder / "vae" / "config.json"))
    own = latents_of(read_json(folder / "unet" / "config.json"))
    sides = [
        side * factor if asked is None else asked
        for asked, side in zip((changes.height, changes.width), own, strict=True)
    ]
    return latents_for(sides[0], sides[1], factor)


def scheduler_of(folder: Path, name: str) -> Any:
    """diffusers' scheduler of that name made from the checkpoint's, as `pipe.scheduler.config` would be."""
    import diffusers

    own = getattr(diffusers, str(read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]))
    kind, options = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(own.from_pretrained(folder / "scheduler").config, **options)
