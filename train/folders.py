"""Where checkpoints are: found by path or by name, without opening them."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """Folder of a diffusers pipeline: a path, or the bare name of a shipped one ("sticker-128").

    Raises UserError when there is none.
    """
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
