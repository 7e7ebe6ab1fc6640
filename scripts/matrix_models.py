"""The models of the matrix: what of scripts/zoo.py is exported with which options, and diffusers' pipeline for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers

Judge = Callable[[Path], Any]  # from the zoo's folder to a pipeline of diffusers


def opened(*path: str, **options: Any) -> Judge:
    """The judge of a pipeline folder of the zoo: `DiffusionPipeline.from_pretrained`."""
    return lambda zoo: diffusers.DiffusionPipeline.from_pretrained(
        zoo.joinpath(*path), local_files_only=True, safety_checker=None, **options
    )


def with_lora(folder: str, file: str, scheduler: str) -> Judge:
    """SD 1.5 with its scheduler replaced and a LoRA loaded, as the LoRA's authors write it; nothing is fused."""

    def judge(zoo: Path) -> Any:
        pipe = opened(folder, "base")(zoo)
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
        pipe.load_lora_weights(zoo / folder, weight_name=file, local_files_only=True)
        return pipe

    return judge


def with_taesd(zoo: Path) -> Any:
    """SD-Turbo with the tiny autoencoder put in."""
    pipe = opened("sd-turbo")(zoo)
    pipe.vae = diffusers.AutoencoderTiny.from_pretrained(zoo / "taesd", local_files_only=True)
    return pipe


def of_the_hub(zoo: Path) -> Any:
    """SD-Turbo by its id, from the zoo's cache."""
    pipe = diffusers.DiffusionPipeline
    return pipe.from_pretrained("stabilityai/sd-turbo", cache_dir=zoo / "sd-turbo-hub" / "hub", local_files_only=True)


@dataclass(frozen=True)
class Model:
    """One row's model. In texts, {zoo} is the zoo's folder.

    checkpoint, options: of the exporters' command lines. environment: of their processes. called: arguments of the
    judge's call.
    """

    title: str
    checkpoint: str
    judge: Judge
    parts: tuple[str, ...]  # of the zoo
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    called: Mapping[str, Any] = field(default_factory=lambda: {"guidance_scale": 0.0})

    def arguments(self, zoo: Path) -> list[str]:
        """The checkpoint and its options as an exporter's command line has them."""
        return [text.replace("{zoo}", str(zoo)) for text in (self.checkpoint, *self.options)]


# A file does not say for which size its model is, and the zoo's are smaller than the real ones.
ZOO_SIZE = ("--height", "64", "--width", "64")


def folder(name: str, title: str, **more: Any) -> Model:
    """A model that is a pipeline folder of the zoo."""
    return Model(title, f"{{zoo}}/{name}", opened(name), (name,), **more)


def file(name: str, title: str, weights: str) -> Model:
    """A model in one file; the judge opens the folder that it was made from."""
    return Model(title, f"{{zoo}}/{name}/{weights}", opened(name, "diffusers"), (name,), ZOO_SIZE)


def lora(name: str, title: str, weights: str, scheduler: str, kind: str) -> Model:
    """SD 1.5 with a LoRA."""
    options = ("--lora", f"{{zoo}}/{name}/{weights}", "--scheduler", scheduler)
    return Model(title, f"{{zoo}}/{name}/base", with_lora(name, weights, kind), (name,), options)


MODELS: dict[str, Model] = {
    "sd-turbo": folder("sd-turbo", "SD-Turbo"),
    "sd-turbo+taesd": Model(
        "SD-Turbo, `--vae taesd`", "{zoo}/sd-turbo", with_taesd, ("sd-turbo", "taesd"), ("--vae", "{zoo}/taesd")
    ),
    "sd-turbo-hub": Model(
        "SD-Turbo by its hub id",
        "stabilityai/sd-turbo",
        of_the_hub,
        ("sd-turbo-hub",),
        environment={"HF_HUB_CACHE": "{zoo}/sd-turbo-hub/hub"},
    ),
    "sd-turbo-file": file("sd-turbo-file", "`sd_turbo.safetensors`", "sd_turbo.safetensors"),
    "sdxs-512-0.9": folder("sdxs-512-0.9", "SDXS-512-0.9"),
    "sdxs-512-dreamshaper": folder("sdxs-512-dreamshaper", "SDXS-512-DreamShaper"),
    "lcm-dreamshaper": folder("lcm-dreamshaper", "LCM Dreamshaper v7", called={}),  # at its pipeline's default, 8.5
    "sd15-lcm-lora": lora("sd15-lcm-lora", "SD 1.5 + LCM-LoRA", "lcm-lora.safetensors", "lcm", "LCMScheduler"),
    "sd15-hyper-sd": lora("sd15-hyper-sd", "SD 1.5 + Hyper-SD", "hyper-sd.safetensors", "tcd", "TCDScheduler"),
    "sd15": folder("sd15", "SD 1.5"),
    "sd15-file": file("sd15-file", "`v1-5-pruned-emaonly.safetensors`", "v1-5-pruned-emaonly.safetensors"),
    "bk-sdm-tiny": folder("bk-sdm-tiny", "BK-SDM-Tiny"),
    "small-sd": folder("small-sd", "small-sd"),
    "sdxl-turbo": folder("sdxl-turbo", "SDXL-Turbo"),
    "sdxl-turbo-file": file("sdxl-turbo-file", "`sd_xl_turbo_1.0.safetensors`", "sd_xl_turbo_1.0.safetensors"),
    "ssd-1b": folder("ssd-1b", "SSD-1B"),
}
