"""An export on disk: its format and metadata, whether its files are whole and its model is the right one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checks.gates import THRESHOLDS_DB
from export.facts import PREFIX, checkpoint_sha256, size_mb
from export.parity.engines import Engine
from export.source import Source
from runtime.bundle import FileFacts, check_file, open_bundle
from runtime.errors import BundleError, UserError
from runtime.manifest import MANIFEST, MARKER

FORMATS = ("onnx", "openvino", "coreml")


@dataclass(frozen=True)
class Export:
    """One export. facts: its metadata; parts: the file or folder of each module."""

    path: Path
    format: str
    precision: str
    facts: Mapping[str, Any]
    parts: Mapping[str, Path]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How its weights were compressed."""
        return self.facts.get("recipe") or {}

    @property
    def sizes_mb(self) -> dict[str, float]:
        """Megabytes of each module."""
        return {name: round(size_mb(path), 2) for name, path in self.parts.items()}

    def threshold_db(self, engine: Engine) -> float:
        """The PSNR that the worst picture must reach on an engine; the recorded one for an unusual precision."""
        recorded = (self.facts.get("parity") or self.facts).get("threshold_db", 0.0)
        known = float(THRESHOLDS_DB.get(self.precision, recorded))
        return min(known, THRESHOLDS_DB["fp16"]) if engine.half else known

    def doubts(self, source: Source, *forms: Path) -> list[str]:
        """Why its figures may not apply to this checkpoint. forms: folders of the same one with other settings."""
        folders = (source.folder, *forms)
        said, found = self.facts.get("checkpoint_sha256"), [checkpoint_sha256(folder) for folder in folders]
        if said is None:
            return [f"{self.path} does not say which checkpoint it was made from"]
        if said not in found:
            return [f"{self.path} was made from another checkpoint ({said[:12]}..., this one is {found[0][:12]}...)"]
        return []


def open_export(path: Path, source: Source) -> Export:
    """An export of a checkpoint; UserError as for `read_export`, or when it has another model's sizes."""
    export = read_export(path)
    refuse_other_sizes(export, source)
    return export


def read_export(path: Path) -> Export:
    """Read an ONNX bundle, OpenVINO IR or a folder of Core ML packages, and verify its files.

    Raises UserError when it is none of these, or is damaged.
    """
    try:
        return onnx_export(path) if (path / MANIFEST).is_file() else marked_export(path)
    except BundleError as error:
        raise UserError(str(error)) from error


def refuse_other_sizes(export: Export, source: Source) -> None:
    """Raise UserError for an export that makes no pictures of the checkpoint's size."""
    shape, wanted = tuple(export.facts["latent_shape"]), source.latent_shape
    same = shape[0] == wanted[0]
    if shape == wanted or (export.format == "openvino" and same):  # whose models take any size
        return
    several = export.facts.get("sizes") or ()
    if several and wanted in [latents_of(export, size) for size in several]:
        return
    if several and same:
        made = " or ".join(f"{across}x{down}" for down, across in several)
        down, across = source.image_size
        raise UserError(
            f"{export.path} makes pictures of {made}, not of {across}x{down}: choose one by --width, --height"
        )
    raise UserError(f"{export.path} is the export of another model: latents {shape}, the checkpoint's are {wanted}")


def latents_of(export: Export, size: Sequence[int]) -> tuple[int, ...]:
    """(C, h, w) of the latents of a picture of (height, width) pixels."""
    channels, *sides = export.facts["latent_shape"]
    scaled = zip(size, sides, export.facts["image_size"], strict=True)
    return (channels, *(side * own // whole for side, own, whole in scaled))


def onnx_export(path: Path) -> Export:
    """A bundle with manifest.json; facts for which it has no field are in its graphs' metadata."""
    import onnx

    manifest = open_bundle(path).manifest
    graphs = {file.parent.name: file for file in sorted(path.glob("*/model.onnx"))}
    facts = manifest.to_dict() | {"recipe": manifest.parity.get("recipe", {})}
    entries = onnx.load(graphs["vae_decoder"], load_external_data=False).metadata_props
    said = {entry.key.removeprefix(PREFIX): entry.value for entry in entries}
    facts |= {"checkpoint_sha256": said.get("checkpoint_sha256")}
    return Export(path, "onnx", manifest.precision, facts, {name: file.parent for name, file in graphs.items()})


def marked_export(path: Path) -> Export:
    """A folder with export.json: OpenVINO IR or Core ML packages."""
    if not (path / MARKER).is_file():
        raise UserError(f"{path} is not an export: it has neither {MANIFEST} (ONNX) nor {MARKER} (Core ML, OpenVINO)")
    facts = read_marker(path / MARKER)
    for name, known in facts["files"].items():
        check_file(path, name, FileFacts(**known))
    if facts["format"] == "openvino":
        parts = {file.parent.name: file.parent for file in sorted(path.glob("*/openvino_model.xml"))}
    else:
        from export.coreml.package import packages_in

        parts = packages_in(path, facts["name"])
    return Export(path, facts["format"], facts["precision"], facts, parts)


def read_marker(path: Path) -> dict[str, Any]:
    """export.json with the keys that a report needs; UserError when they are missing."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "precision", "name", "latent_shape", "scaling_factor", "files"} - facts.keys()
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): export again") from error
    if missing or facts["format"] not in FORMATS:
        what = f"lacks {', '.join(sorted(missing))}" if missing else f"is of the unknown format {facts['format']!r}"
        raise UserError(f"{path} {what}: export again with this version")
    return facts
