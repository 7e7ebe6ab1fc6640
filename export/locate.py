"""A checkpoint's folder, checked by its JSON files: in a fraction of a second, without PyTorch."""

from __future__ import annotations

from pathlib import Path

from export.checks.folder import check_folder, hint
from runtime.errors import UserError
from train.families import KINDS
from train.folders import pipeline_kind
from train.opening.resolve import resolve_checkpoint
from train.weights.files import refuse_variant, stored_names
from train.weights.keys import refuse_adapters


def locate(
    name_or_path: str | Path, variant: str | None = None, config: str | None = None, base: str | None = None
) -> Path:
    """The folder of a checkpoint, or of a shipped one by its bare name, checked by its JSON files.

    variant: of the weight files. config, base: see `resolve_checkpoint`. Raises UserError that says what was found
    instead, or which feature the exporters lack.
    """
    try:
        folder = resolve_checkpoint(name_or_path, config, base)
    except UserError as error:
        raise UserError((hint(Path(name_or_path)) if base is None else "") or str(error)) from error
    try:
        check_folder(folder)
        refuse_variant(folder, variant)
        for part in pipeline_kind(folder, KINDS).networks:
            refuse_adapters(folder / part, stored_names(folder / part, variant))
    except UserError as error:  # of a folder that was assembled, only what it was made from is known outside
        raise UserError(str(error).replace(str(folder), str(name_or_path))) from error
    return folder
