"""Cache files of tensors: written whole or not at all, checked when read."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from runtime.errors import OutputError, UserError
from runtime.files import whole_file

LOG = logging.getLogger("train.data")


def write_tensors(path: Path | None, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a cache file whole or not at all (not without a path). Raises UserError when it cannot be written."""
    if path is None:
        return
    text = json.dumps(facts)
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, {"facts": text, "checksum": _checksum(tensors, text)})
    except (OutputError, SafetensorError) as error:
        why = error.__cause__ or error
        raise UserError(f"the cache file {path} cannot be written: {why}; free space or move the run") from error


def read_tensors(path: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, facts) of a cache file; None when there is none, or when it is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            marks = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        if marks["checksum"] == _checksum(tensors, marks["facts"]):
            return tensors, json.loads(marks["facts"])
    except (OSError, SafetensorError, KeyError, TypeError):
        pass
    LOG.warning("the cache file %s is damaged and is made again", path)
    return None


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    value = zlib.crc32(text.encode())
    for _, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
