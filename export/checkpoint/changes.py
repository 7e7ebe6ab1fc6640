"""The options that change a checkpoint before its export: another autoencoder, LoRA files, another scheduler."""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from export.checkpoint.hub import from_hub
from export.locate import locate, name_of
from runtime.cache import working_folder
from runtime.errors import UserError
from runtime.files import kept_folder, write_text
from train.folders import read_json

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
    """What is changed; the defaults change nothing. loras: (file, scale)."""

    vae: Path | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    scheduler: str | None = None


def add_change_options(parser: argparse.ArgumentParser) -> None:
    """Add --vae, --lora and --scheduler."""
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


def brought(args: argparse.Namespace) -> str:
    """The folder, or shipped name, that the options name, with their changes made. Raises UserError, one line.

    args: with checkpoint, variant, vae, lora and scheduler.
    """
    found = from_hub(args.checkpoint)
    checkpoint = str(found) if found else str(args.checkpoint)
    changes = Changes(args.vae, tuple(map(lora_of, args.lora)), args.scheduler)
    if changes == Changes():
        return checkpoint
    folder = locate(checkpoint, args.variant)
    vae = vae_config(changes.vae, folder) if changes.vae else {}
    target = working_folder() / "checkpoints" / key_of(folder, changes, args.variant) / changed_name(folder, changes)
    if not target.is_dir():
        with kept_folder(target) as made:
            write_changed(made, folder, changes, vae, args.variant)
    return str(target)


def changed_name(folder: Path, changes: Changes) -> str:
    """The checkpoint's name and what was added to it."""
    added = [path.stem for path, _ in changes.loras] + ([changes.vae.resolve().name] if changes.vae else [])
    return "+".join([name_of(folder), *added])


def key_of(folder: Path, changes: Changes, variant: str | None) -> str:
    """A hash of the files that go in, by path, size and time, and of the scales."""
    inputs = [path for path in folder.rglob("*") if path.is_file()] + [path for path, _ in changes.loras]
    inputs += [path for path in changes.vae.glob("*") if path.is_file()] if changes.vae else []
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(inputs)]
    return hashlib.sha256(repr((stats, astuple(changes), variant)).encode()).hexdigest()[:16]


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


def write_changed(made: Path, folder: Path, changes: Changes, vae: dict[str, Any], variant: str | None) -> None:
    """A pipeline folder that links to what stays the same and holds what is changed."""
    index = read_json(folder / "model_index.json")
    replaced = {"model_index.json"} | ({"vae"} if vae else set()) | ({"scheduler"} if changes.scheduler else set())
    replaced |= {"unet", "text_encoder"} if changes.loras else set()
    for path in folder.iterdir():
        if path.name not in replaced:
            (made / path.name).symlink_to(path.resolve())
    if changes.vae:
        index["vae"] = ["diffusers", vae["_class_name"]]
        (made / "vae").symlink_to(changes.vae.resolve())
    if changes.scheduler:
        index["scheduler"] = ["diffusers", SCHEDULERS[changes.scheduler][0]]
        scheduler_of(folder, changes.scheduler).save_pretrained(made / "scheduler")
    if changes.loras:
        fuse(made, folder, changes, variant)
    write_text(made / "model_index.json", json.dumps(index, indent=2) + "\n")


def scheduler_of(folder: Path, name: str) -> Any:
    """diffusers' scheduler of that name made from the checkpoint's, as `pipe.scheduler.config` would be."""
    import diffusers

    own = getattr(diffusers, str(read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]))
    kind, options = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(own.from_pretrained(folder / "scheduler").config, **options)


def fuse(made: Path, folder: Path, changes: Changes, variant: str | None) -> None:
    """Write the U-Net and the text encoder with the LoRAs added, each at its scale. Raises UserError for a misfit."""
    from export.source import silence

    silence()
    from train.checkpoint import load_pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = load_pipeline(folder, variant=variant)
        for number, (path, scale) in enumerate(changes.loras):
            name = f"lora{number}"
            try:
                pipe.load_lora_weights(
                    str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True
                )
                pipe.fuse_lora(adapter_names=[name], lora_scale=scale)
            except Exception as error:  # diffusers and peft raise a dozen exception types here
                first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise UserError(f"--lora {path} does not fit {folder}: {first}") from error
            pipe.unload_lora_weights()
    pipe.unet.save_pretrained(made / "unet")
    pipe.text_encoder.save_pretrained(made / "text_encoder")
