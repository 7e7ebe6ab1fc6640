"""A checkpoint's weights by name, type and shape, read from the headers of its files: nothing is loaded."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError

NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")  # of weight files in diffusers and transformers
MOST_HEADER = 100_000_000  # bytes that safetensors allows for a header
POINTER = b"version https://git-lfs"  # start of a file that Git LFS has not fetched yet
WHOLE = "checkpoint.safetensors"  # of a pipeline folder whose parts without weights are in this one file
# What a part's tensors begin with there (LDM's layout).
IN_WHOLE = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "conditioner.embedders.0.transformer.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}
# Layers that plans look for by name.
RENAMED = {"time_embed.": "time_embedding.", "input_blocks.0.0.": "conv_in.", "out.2.": "conv_out."}
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}  # types of weights


@dataclass(frozen=True)
class Weight:
    """One stored tensor: its shape, and the bits per number in the checkpoint."""

    shape: tuple[int, ...]
    bits: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Files:
    """The weight files of one part that are opened, and how they must be asked for: variant and safetensors or not."""

    paths: tuple[Path, ...]
    variant: str | None
    safetensors: bool


def stored_weights(folder: Path, variant: str | None = None) -> dict[str, Weight]:
    """Tensor name -> weight, for one component's folder. Integer tensors are buffers and left out.

    variant: as in `weight_files`. Raises UserError when a file is missing, truncated or not a weight file.
    """
    if whole := whole_file(folder):
        return in_whole(whole, folder.name)
    found: dict[str, Weight] = {}
    for path in weight_files(folder, variant).paths:
        found |= dict(read_torch(path) if path.suffix == ".bin" else read_safetensors(path))
    return found


def stored_names(folder: Path, variant: str | None = None) -> set[str]:
    """The tensors' names as far as headers of safetensors tell them; those of PyTorch files need PyTorch."""
    if whole := whole_file(folder):
        return set(in_whole(whole, folder.name))
    files = weight_files(folder, variant)
    return {name for path in files.paths if files.safetensors for name in safetensors_header(path)[0]}


def whole_file(folder: Path) -> Path | None:
    """The file with a part's weights where the part's own folder holds none; None where it does."""
    whole = folder.parent / WHOLE
    return whole if whole.is_file() and not variant_files(folder, None) and not variants(folder) else None


def in_whole(whole: Path, part: str) -> dict[str, Weight]:
    """A part's weights in a single file, without the part's prefix."""
    found = {}
    for name, weight in read_safetensors(whole):
        for prefix in IN_WHOLE[part]:
            if name.startswith(prefix):
                short = name.removeprefix(prefix)
                new = next((new + short.removeprefix(old) for old, new in RENAMED.items() if short.startswith(old)), "")
                found[new or short] = weight
    return found


def weight_files(folder: Path, variant: str | None = None) -> Files:
    """The files that diffusers and transformers open: safetensors first, an index before a single file.

    variant: such as "fp16", where the folder has it; as in diffusers, a part without it is opened as it is. Without
    plain files the only variant is taken. Raises UserError when there are none, or several variants.
    """
    if found := (variant and variant_files(folder, variant)) or variant_files(folder, None):
        return found
    present = variants(folder)
    if len(present) == 1:
        return variant_files(folder, present[0])  # type: ignore[return-value]  # there is one, by `variants`
    if present:
        raise UserError(f"{folder} holds weights in several variants: choose one by --variant {' or '.join(present)}")
    raise UserError(f"{folder} holds no weights ({NAMES[0]}.safetensors or {NAMES[1]}.safetensors): copy them there")


def variant_files(folder: Path, variant: str | None) -> Files | None:
    """The files of one variant, None for the plain ones; None where there are none."""
    dotted = f".{variant}" if variant else ""
    for suffix in (".safetensors", ".bin"):
        for name in NAMES:
            indices = {f"{name}{suffix}.index{dotted}.json", f"{name}{suffix}{dotted}.index.json"}
            for index in sorted(folder / one for one in indices):
                if index.is_file():
                    return Files(tuple(shards(index)), variant, suffix != ".bin")
            single = folder / f"{name}{dotted}{suffix}"
            if single.is_file():
                return Files((single,), variant, suffix != ".bin")
    return None


def refuse_variant(folder: Path, variant: str | None) -> None:
    """Raise UserError when no part of a pipeline folder holds the variant that was asked for."""
    parts = [path for path in sorted(folder.glob("*")) if path.is_dir()]
    if variant is None or any(variant_files(part, variant) for part in parts):
        return
    present = sorted({name for part in parts for name in variants(part)})
    there = f"it has {', '.join(present)}" if present else "leave the option out: it has only plain files"
    raise UserError(f"--variant {variant}: {folder} holds no weights of that variant; {there}")


def variants(folder: Path) -> list[str]:
    """The names of the variants that a folder holds whole."""
    pattern = re.compile(rf"(?:{'|'.join(NAMES)})(?:\.(\w+)\.(?:safetensors|bin)|.*\.index\.(\w+)\.json)")
    found = {match.group(1) or match.group(2) for path in folder.glob("*") if (match := pattern.fullmatch(path.name))}
    return sorted(name for name in found if variant_files(folder, name))


def shards(index: Path) -> list[Path]:
    """The files that an index names; UserError when one is missing."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is damaged, copy it again: {error!r}") from error
    for name in names:
        if not (index.parent / name).is_file():
            raise UserError(f"{index.parent / name} is missing, which {index.name} names: copy the whole checkpoint")
    return [index.parent / name for name in names]


def read_safetensors(path: Path) -> Iterator[tuple[str, Weight]]:
    """The header's entries, each checked against the length of the file."""
    header, start = safetensors_header(path)
    size = path.stat().st_size
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
            end = start + int(entry["data_offsets"][1])
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path} has a damaged header: copy it again") from error
        if end > size:
            raise UserError(f"{path} is cut short at {size} bytes, within {name}: copy it again")
        if kind in BITS:
            yield name, Weight(shape, BITS[kind])


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and where the data begins."""
    with path.open("rb") as file:
        first = file.read(len(POINTER))
        if first == POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in the checkpoint")
        length = int.from_bytes(first[:8], "little")
        if len(first) < 8 or length > min(MOST_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise UserError(f"{path} is not a safetensors file, or is damaged: copy it again")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            assert isinstance(header, dict)
        except (ValueError, AssertionError) as error:
            raise UserError(f"{path} has a damaged header: copy it again") from error
    return header, 8 + length


def read_torch(path: Path) -> Iterator[tuple[str, Weight]]:
    """The same for a PyTorch file, whose numbers stay on the disk."""
    import torch

    try:
        tensors = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zipfile and torch raise all kinds of exceptions
        raise UserError(f"{path} is not a PyTorch weight file, or is damaged: copy it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            yield name, Weight(tuple(tensor.shape), 8 * tensor.element_size())
