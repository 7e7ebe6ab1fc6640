"""Exports compared with their checkpoint, engine by engine: what `python -m export.parity` reports."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint.changes import brought
from export.checks.reference import Reference, save_reference
from export.facts import size_mb
from export.heap import give_back_memory
from export.parity.engines import Engine, engines
from export.parity.exports import Export, read_export, refuse_other_sizes
from export.parity.strip import Column, write_strip
from export.parity.worker import PICTURES, REFERENCE, job_of, run_apart
from export.plan import check_memory, plan
from export.plan.memory import report_memory
from export.source import Floats, open_folder
from runtime.command import tell
from runtime.errors import UserError
from runtime.files import check_writable
from train.progress import progress

# Of the first engine that ran, also reported as the export's own.
HEADLINE = (
    "engine",
    "modules",
    "picture",
    "pictures_db",
    "two_steps_db",
    "four_steps_db",
    "threshold_db",
    "load_s",
    "first_ms",
    "latency_ms",
    "peak_rss_mb",
    "added_rss_mb",
)
NO_FIGURES: dict[str, Any] = {"max_abs": None, "psnr_db": None}


def examine(export: Export, folder: Path, advance: Callable[[int], None]) -> dict[str, Any]:
    """The report on one export. folder: holds the reference, and receives the first engine's pictures."""
    runs = []
    for engine in engines(export.format):
        runs.append(run_on(engine, export, folder))
        keep_first(folder, export)
        advance(1)
    facts: dict[str, Any] = {"path": str(export.path), "format": export.format, "precision": export.precision}
    first = next((run for run in runs if run["status"] != "not run"), runs[0])
    facts |= {key: first.get(key) for key in HEADLINE}
    facts["modules"] = first.get("modules") or {name: NO_FIGURES | said(first) for name in export.parts}
    facts["picture"] = first.get("picture") or NO_FIGURES | said(first)
    facts |= {"size_mb": round(size_mb(export.path), 2), "modules_mb": export.sizes_mb}
    return facts | {"recipe": dict(export.recipe), "runs": runs}


def run_on(engine: Engine, export: Export, folder: Path) -> dict[str, Any]:
    """An export's figures on one engine, or the reason why there are none."""
    if engine.why:
        return {"engine": engine.name, "status": "not run", "why": engine.why}
    job = job_of(export.path, export.format, dict(export.facts), engine, export.threshold_db(engine))
    return {"engine": engine.name} | run_apart(folder, job)


def keep_first(folder: Path, export: Export) -> None:
    """Keep the pictures of an export's first engine for the strip."""
    made, kept = folder / PICTURES, pictures_of(folder, export)
    if made.is_file() and not kept.is_file():
        shutil.copyfile(made, kept)


def pictures_of(folder: Path, export: Export) -> Path:
    """The file for an export's pictures."""
    return folder / f"{str(export.path).replace('/', '_')}.npy"


def said(run: dict[str, Any]) -> dict[str, str]:
    """The status and reason of a run without figures."""
    return {"status": run["status"], "why": run["why"]}


def failed(facts: dict[str, Any]) -> bool:
    """Whether an export failed on any engine."""
    return any(run["status"] == "failed" for run in facts["runs"])


def strip(
    path: Path,
    reference: Floats,
    prompts: Sequence[str],
    reports: list[dict[str, Any]],
    exports: list[Export],
    folder: Path,
) -> None:
    """Write the picture strip of the exports that drew pictures."""
    columns = []
    for facts, export in zip(reports, exports, strict=True):
        if pictures_of(folder, export).is_file():
            worst = f"{facts['picture']['psnr_db']:.1f} dB at worst"
            title = (f"{export.format} {export.precision}", worst)
            columns.append(Column(title, np.load(pictures_of(folder, export)), facts["pictures_db"]))
    write_strip(path, prompts[: len(reference)], reference, columns)


def report(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The reports on all exports, and the strip; `folder` is where their processes exchange data."""
    exports = [read_export(path) for path in dict.fromkeys(args.exports)]  # errors come before anything is loaded
    own_size = argparse.Namespace(**vars(args) | {"height": None, "width": None})
    args.checkpoint, unsized = brought(args), brought(own_size)  # a bundle of several sizes is made from the latter
    if not args.no_room_check:
        check_memory(memory_for(args.checkpoint, exports), "the report")
    source = open_folder(args.checkpoint, args.prompts, args.variant)
    for export in exports:
        refuse_other_sizes(export, source)
    doubts = {export.path: export.doubts(source, unsized) for export in exports}
    for doubt in chain.from_iterable(doubts.values()):
        tell(f"warning: {doubt}: the figures may compare two models")
    with progress("parity", 1 + sum(len(engines(export.format)) for export in exports)) as advance:
        reference = Reference(source)
        save_reference(reference, folder / REFERENCE)
        expected = reference.pictures.astype(np.float32)
        prompts, origin = source.prompts.compared, source.prompts.origin
        del reference, source  # the exports need the memory
        give_back_memory()
        advance(1)
        reports = [
            examine(export, folder, advance) | {"prompts": origin, "warnings": doubts[export.path]}
            for export in exports
        ]
    if args.strip:
        strip(args.strip, expected, prompts, reports, exports, folder)
    return reports


def memory_for(checkpoint: Path, exports: list[Export]) -> int:
    """Estimated peak memory of the report in bytes."""
    largest = max(size_mb(export.path) for export in exports) * 1e6
    weights = sum(part.parameters for part in plan(checkpoint, "onnx", "fp32").components)
    return report_memory(checkpoint, int(largest), weights)


def checked(path: Path) -> None:
    """Raise UserError now if a PNG could not be written to `path` later."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--strip {path}: give the name of a .png file")
    check_writable(path)
