"""A checkpoint's folder, checked by its JSON files: in a fraction of a second, without PyTorch."""

from __future__ import annotations

from pathlib import Path

from export.checks.folder import check_folder, hint
from runtime.errors import UserError
from train.folders import resolve_checkpoint
from train.weights.files import refuse_variant, stored_names
from train.weights.keys import refuse_adapters

PARTS = ("text_encoder", "unet", "vae")
MOST_NAME = 100  # bytes of an export's name: with it the names of its files stay below 255


def locate(name_or_path: str, variant: str | None = None) -> Path:
    """The folder of a checkpoint, or of a shipped one by its bare name, checked by its JSON files.

    variant: of the weight files. Raises UserError that says what was found instead, or which feature the exporters
    lack.
    """
    try:
        folder = resolve_checkpoint(name_or_path)
    except UserError as error:
        raise UserError(hint(Path(name_or_path)) or str(error)) from error
    check_folder(folder)
    refuse_variant(folder, variant)
    for part in PARTS:
        refuse_adapters(folder / part, stored_names(folder / part, variant))
    return folder


def name_of(folder: Path) -> str:
    """What an export of a checkpoint is called: its folder's name, of the hub's cache the model's, cut if too long."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        folder = Path(folder.parent.parent.name.rpartition("--")[2])
    printable = "".join(letter if letter.isprintable() else "_" for letter in folder.name)
    return printable.encode()[:MOST_NAME].decode(errors="ignore").strip() or "checkpoint"
