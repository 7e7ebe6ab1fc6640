"""Where checkpoints are: found by path or by name, without opening them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from train.families import family_of, refusal

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


def refuse_pipeline(folder: Path) -> None:
    """Raise UserError, one line, for a pipeline of another family, such as SDXL or FLUX."""
    index = read_json(folder / "model_index.json")
    if family := family_of(index):
        raise UserError(f"{folder}: {refusal(index, family)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the checkpoint; UserError when it is missing or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: copy the whole checkpoint") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object: copy it again")
    return data
