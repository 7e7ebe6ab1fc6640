"""A checkpoint's folder, checked by its JSON files: in a fraction of a second, without PyTorch."""

from __future__ import annotations

from pathlib import Path

from export.checks.folder import check_folder, hint
from runtime.errors import UserError
from train.folders import resolve_checkpoint


def locate(name_or_path: str) -> Path:
    """The folder of a checkpoint, or of a shipped one by its bare name, checked by its JSON files.

    Raises UserError that says what was found instead, or which feature the exporters lack.
    """
    try:
        folder = resolve_checkpoint(name_or_path)
    except UserError as error:
        raise UserError(hint(Path(name_or_path)) or str(error)) from error
    check_folder(folder)
    return folder
