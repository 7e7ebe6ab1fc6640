"""A U-Net that was published without the rest of its pipeline, put into another one's place."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.errors import UserError
from train.folders import read_json
from train.weights.files import read_safetensors

UNET = "UNet2DConditionModel"
FILE = "diffusion_pytorch_model.safetensors"


def write_with_base(made: Path, unet: Path, base: Path) -> None:
    """Fill the empty folder `made` with links to `base`, whose U-Net is another.

    unet: a folder with config.json and weights, or a .safetensors file of the same U-Net as the base's, under
    diffusers' names. Raises UserError.
    """
    if unet.is_file():
        refuse_other_file(unet)
    elif not (unet / "config.json").is_file():
        raise UserError(f"{unet}: with --base, give the folder of a U-Net (config.json and its weights) or its file")
    elif (name := read_json(unet / "config.json").get("_class_name")) != UNET:
        raise UserError(f"{unet} is a {name}: with --base, give a {UNET}")
    for path in sorted(base.iterdir()):
        if path.name != "unet":
            (made / path.name).symlink_to(path.resolve())
    if unet.is_dir():
        (made / "unet").symlink_to(unet.resolve())
        return
    (made / "unet").mkdir()
    shutil.copyfile(base / "unet" / "config.json", made / "unet" / "config.json")
    (made / "unet" / FILE).symlink_to(unet.resolve())


def refuse_other_file(file: Path) -> None:
    """Raise UserError for a file that is no U-Net under diffusers' names."""
    if file.suffix != ".safetensors":
        raise UserError(f"{file}: only .safetensors files are opened")
    if not any(name.startswith("down_blocks.") for name, _ in read_safetensors(file)):
        raise UserError(
            f"{file} is no U-Net under diffusers' names (down_blocks.*), which --base adds parts to: leave --base out "
            "if it is a whole model"
        )
