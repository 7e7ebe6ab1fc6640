"""Pipeline folders: where the shipped ones are, and their JSON files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from train.families import SD, Kind, family_of, kind_of, refusal

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def pipeline_kind(folder: Path, kinds: Sequence[Kind] = (SD,)) -> Kind:
    """The kind of a pipeline, one of `kinds`. Raises UserError, one line, for another family, such as FLUX."""
    index = read_json(folder / "model_index.json")
    found = kind_of(index)
    if found is not None and found in kinds:
        return found
    if family := family_of(index):
        raise UserError(f"{folder}: {refusal(index, family, kinds)}")
    return SD


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
