"""A user's own folder of captioned pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from runtime.decoding import BadPicture
from runtime.errors import UserError
from train.data.pictures import decode
from train.data.shards import UNIT, Record

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class FolderPicture:
    """One file of a user's folder."""

    def __init__(self, record: Record, path: Path) -> None:
        self.record = record
        self.path = path

    def draw(self, size: int) -> np.ndarray:
        try:
            return decode(self.path.read_bytes(), size)
        except OSError as error:
            raise BadPicture(f"cannot be read: {error.strerror}") from error


def folder_sources(folder: Path) -> list[FolderPicture]:
    """The captioned pictures of a folder in Hugging Face's `imagefolder` convention.

    `metadata.jsonl` with `file_name` and `text` (or `caption`), or a `.txt` beside each picture. Raises
    UserError when there is no captioned picture at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    captions = _metadata(folder)
    sources = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES):
        relative = path.relative_to(folder).as_posix()
        text = captions.get(relative) or _text_beside(path)
        if text:
            sources.append(FolderPicture(_folder_record(relative, text), path))
    if not sources:
        raise UserError(
            f"{folder}: no captioned pictures; add metadata.jsonl (file_name, text) or NAME.txt beside NAME.png"
        )
    return sources


def _folder_record(relative: str, text: str) -> Record:
    key = hashlib.sha256(relative.encode()).hexdigest()[:16]
    concept = "caption:" + hashlib.sha256(text.lower().encode()).hexdigest()[:16]
    return Record(key, (text,), facts={UNIT: concept})


def _metadata(folder: Path) -> dict[str, str]:
    path = folder / "metadata.jsonl"
    captions: dict[str, str] = {}
    if not path.is_file():
        return captions
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[row["file_name"]] = str(row.get("text") or row["caption"]).strip()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected JSON with file_name and text") from error
    return captions


def _text_beside(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return " ".join(beside.read_text(encoding="utf-8", errors="replace").split()) if beside.is_file() else ""
