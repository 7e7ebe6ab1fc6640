"""`python -m export.parity CHECKPOINT BUNDLE...`: one report on how close exports are to their checkpoint.

Exit code 1 when a comparison failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.coreml import MARKER, package_name
from export.coreml_run import NEEDS_MACOS, evaluated, on_macos, predicted
from export.folder import size_mb
from export.measure import THRESHOLDS_DB, Measure, Network, Reference, not_run, pictures
from export.onnx_run import network_of
from export.report import line, table
from export.source import Source, open_source
from runtime.bundle import FileFacts, check_file, open_bundle
from runtime.errors import BundleError
from runtime.manifest import MANIFEST
from train.errors import UserError, run_command
from train.progress import progress

RUNS = 7  # of which the median latency is reported

EXAMPLES = """examples:
  python -m export.parity sticker-128 out/sticker-onnx out/sticker-coreml
  python -m export.parity path/to/checkpoint out/bundle --json"""


@dataclass(frozen=True)
class Export:
    """One export on disk: what it says of itself, and how to open it.

    device: opens it on the engine that it is made for; None where that is not possible here.
    """

    path: Path
    format: str
    precision: str
    latent_shape: tuple[int, ...]
    compare: Callable[[], Network]
    device: Callable[[], Network] | None


def open_export(path: Path, source: Source) -> Export:
    """An ONNX bundle or a folder of Core ML packages; UserError when it is neither, or of another model."""
    if (path / MANIFEST).is_file():
        found = onnx_export(path)
    elif (path / MARKER).is_file():
        found = coreml_export(path, source)
    else:
        raise UserError(f"{path} is no export: it has neither {MANIFEST} (ONNX) nor {MARKER} (Core ML)")
    if found.latent_shape != source.latent_shape:
        sizes = f"latents {found.latent_shape}, the checkpoint's are {source.latent_shape}"
        raise UserError(f"{path} is the export of another model: {sizes}")
    return found


def onnx_export(path: Path) -> Export:
    """A bundle, its files verified."""
    try:
        manifest = open_bundle(path).manifest
    except BundleError as error:
        raise UserError(str(error)) from error

    def opened() -> Network:
        return network_of(path)

    return Export(path, "onnx", manifest.precision, manifest.latent_shape, opened, opened)


def coreml_export(path: Path, source: Source) -> Export:
    """A folder of packages, compared by the reference evaluator."""
    facts = json.loads((path / MARKER).read_text(encoding="utf-8"))
    try:
        for name, known in facts["files"].items():
            check_file(path, name, FileFacts(**known))
    except BundleError as error:
        raise UserError(str(error)) from error
    names = ("text_encoder", "unet", "unet_chunk1", "unet_chunk2", "vae_decoder")
    paths = {part: path / package_name(facts["name"], part) for part in names}
    packages = {part: package for part, package in paths.items() if package.is_dir()}
    scaling = float(facts["scaling_factor"])
    return Export(
        path, "coreml", facts["precision"], tuple(facts["latent_shape"]),
        compare=lambda: evaluated(packages, scaling),
        device=(lambda: predicted(packages, scaling, facts["compute_unit"])) if on_macos() else None,
    )


def examine(export: Export, reference: Reference) -> dict[str, Any]:
    """The report on one export."""
    parity = reference.compare(export.compare(), THRESHOLDS_DB[export.precision])
    facts: dict[str, Any] = {"path": str(export.path), "format": export.format, "precision": export.precision}
    facts |= parity.to_json() | {"size_mb": round(size_mb(export.path), 2)}
    facts |= timed(export, reference)
    if export.format == "coreml":
        facts["computed_by"] = "reference evaluator (export.mil)"
        facts["real_prediction"] = vars(on_device(export, reference))
    return facts


def on_device(export: Export, reference: Reference) -> Measure:
    """The whole picture by Core ML itself, or that this machine has none."""
    if export.device is None:
        return not_run(NEEDS_MACOS)
    return reference.compare(export.device(), THRESHOLDS_DB[export.precision]).picture


def timed(export: Export, reference: Reference) -> dict[str, float | None]:
    """Seconds to load and median milliseconds of one picture in one step; None where it cannot run here."""
    if export.device is None:
        return {"load_s": None, "latency_ms": None}
    started = time.perf_counter()
    network = export.device()
    loaded = time.perf_counter() - started
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        pictures(network, reference.source, reference.ids[:1], reference.noise[:1])
        seconds.append(time.perf_counter() - started)
    return {"load_s": round(loaded, 3), "latency_ms": round(1000 * statistics.median(seconds[1:]), 2)}


def failed(facts: dict[str, Any]) -> bool:
    """Whether a comparison of a report failed."""
    measures = [*facts["modules"].values(), facts["picture"], facts.get("real_prediction", {})]
    return any(measure.get("status") == "failed" for measure in measures)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m export.parity", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="a diffusers pipeline folder, or the name of a shipped one")
    parser.add_argument("bundles", nargs="+", type=Path, help="ONNX bundles and folders of Core ML packages")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    source = open_source(args.checkpoint)
    exports = [open_export(path, source) for path in args.bundles]
    reports = []
    with progress("parity", len(exports)) as advance:
        reference = Reference(source)
        for export in exports:
            reports.append(examine(export, reference))
            advance(1)
    print(json.dumps({"exports": reports}, indent=2) if args.json else "\n".join(map(shown, reports)))
    if any(map(failed, reports)):
        sys.exit(1)


def shown(facts: dict[str, Any]) -> str:
    """One report for a reader."""
    real = facts.get("real_prediction")
    return table(facts) + (f"\n{line('on device', real)}" if real else "")


if __name__ == "__main__":
    run_command(main)
