"""A CHECKPOINT's folder: a pipeline folder, a shipped one, the hub's cache, one file, or a U-Net and its base."""

from __future__ import annotations

from pathlib import Path

from runtime.cache import working_folder
from runtime.errors import UserError
from runtime.files import passing_folder
from train.folders import CHECKPOINTS
from train.opening.hub import from_hub, name_of
from train.opening.models import MODELS
from train.opening.single_file import write_from_file
from train.opening.unet_alone import write_with_base


def resolve_checkpoint(name_or_path: str | Path, config: str | None = None, base: str | None = None) -> Path:
    """Folder of a diffusers pipeline, for whatever names a checkpoint.

    That is a path, the bare name of a shipped one ("sticker-128"), a hub id that the hub's cache holds, its folder
    there, or a .safetensors file in the original layout. config: for such a file, the model that it is; a name of
    `models.MODELS`, a pipeline folder, or a hub id. base: a checkpoint from which all but the U-Net comes, and
    name_or_path is a U-Net alone. What is made for a file or a U-Net lasts as long as the process.
    Raises UserError when there is no such checkpoint.
    """
    if base is not None:
        unet = from_hub(str(name_or_path)) or Path(name_or_path)
        made = new_folder(unet.stem if unet.is_file() else name_of(unet))
        write_with_base(made, unet, resolve_checkpoint(base, config))
        return made
    path = Path(name_or_path)
    if path.is_file() and path.name != "model_index.json":
        found = config if config is None or config in MODELS else str(from_hub(config) or config)
        return made_from_file(path, found)
    if config is not None:
        raise UserError(f"--config {config}: {path} is not a single file, and has configurations of its own")
    return from_hub(str(name_or_path)) or pipeline_folder(name_or_path)


def made_from_file(file: Path, config: str | None) -> Path:
    """The passing folder of a single file, called as the file is without its ending."""
    made = new_folder(file.stem)
    write_from_file(made, file, config)
    return made


def new_folder(name: str) -> Path:
    """An empty folder of that name, which lasts as long as the process."""
    made = passing_folder(working_folder() / "checkpoints" / "assembled") / name
    made.mkdir()
    return made


def pipeline_folder(name_or_path: str | Path) -> Path:
    """A path, or the bare name of a shipped one. Raises UserError when there is none."""
    path = Path(name_or_path)
    shipped = CHECKPOINTS / path
    if (path / "model_index.json").is_file():
        return path
    if len(path.parts) == 1 and (shipped / "model_index.json").is_file():
        return shipped
    names = sorted(folder.parent.name for folder in CHECKPOINTS.glob("*/model_index.json"))
    raise UserError(
        f"{name_or_path}: no diffusers pipeline there (model_index.json is missing, and nothing is downloaded); "
        "give a pipeline folder" + (f" or one of: {', '.join(names)} (shipped in the source tree)" if names else "")
    )
