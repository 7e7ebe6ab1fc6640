"""What `python -m export.coreml` does: convert the modules, compress them, compare them, write them whole."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from export.checks.measure import Measure, Parity, not_run, refuse_below
from export.checks.reference import Reference
from export.checks.weights import REMEDY, watching
from export.coreml import palettize, w8a8
from export.coreml.convert import convert
from export.coreml.graphs import Part, parts
from export.coreml.options import Options
from export.coreml.package import APPLE_VERSION, add_metadata, chunk, describe, package_name
from export.coreml.run import NEEDS_MACOS, evaluated, on_macos, predicted
from export.coreml.split_einsum import QUERY_CHUNK, split_einsum
from export.coreml.swift_resources import refuse_swift, write_resources
from export.facts import model_facts, size_mb
from export.graphs import attention_as, plain_attention
from export.source import Source
from export.text import told
from runtime.bundle import describe_files
from runtime.errors import UserError
from runtime.files import whole_folder
from runtime.manifest import MARKER
from train.progress import progress


class Stages:
    """A progress bar that says what is being done."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    @contextmanager
    def stage(self, doing: str) -> Iterator[None]:
        """Advance the bar by one when the block ends."""
        with progress(f"Core ML: {doing}", self.total, done=self.done):
            yield
        self.done += 1


def export_coreml(source: Source, out: Path, options: Options) -> dict[str, Any]:
    """Write the folder `out` of a checkpoint and return its report.

    Raises UserError, and writes nothing, when the folder is taken, Apple's Swift package is to read a tokenizer that
    it does not know, a layer leaves fp16's range or a picture is below
    the threshold.
    """
    if options.bundle_resources_for_swift_cli:
        refuse_swift(source)
    started = time.perf_counter()
    stages = Stages(2 + len(source.components) + options.chunk_unet + options.bundle_resources_for_swift_cli)
    with whole_folder(out, MARKER, options.overwrite) as folder:
        with stages.stage("PyTorch's pictures"), watching(source, options.precision):
            reference = Reference(source)
        packages = write_packages(folder, source, options, stages)
        with stages.stage("compare with PyTorch"):
            figures = verify(reference, packages, options).to_json()
        for package in packages.values():
            add_metadata(package, {"parity": figures})
        facts = facts_of(source, options) | {"format": "coreml"} | figures
        if options.bundle_resources_for_swift_cli:
            with stages.stage("Resources/"):
                facts["compile"] = write_resources(folder, source, packages)
        marker = facts | source.facts() | {"files": describe_files(folder)}
        (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    report = {"path": str(out), "size_mb": round(size_mb(out), 2)}
    return report | {"export_s": round(time.perf_counter() - started, 1)} | facts


def write_packages(folder: Path, source: Source, options: Options, stages: Stages) -> dict[str, Path]:
    """Convert every part into `folder`, one at a time; the packages by part."""
    found: dict[str, Path] = {}
    with attention(source, options.attention_implementation):
        for part in parts(source):
            with stages.stage(f"convert {part.name}"):
                found[part.name] = folder / package_name(source.name, part.name)
                write_package(part, found[part.name], source, options)
                gc.collect()  # the converter's programs reference each other, and hold each weight three times
    if options.chunk_unet:
        with stages.stage("cut unet in two"):
            found["unet_chunk1"], found["unet_chunk2"] = chunk(found["unet"])
    for name, package in found.items():
        describe(package, name, facts_of(source, options, name))
    return found


def write_package(part: Part, package: Path, source: Source, options: Options) -> None:
    """Convert one part and compress its weights."""
    target, nbits = options.min_deployment_target, options.nbits(part.name)
    if not options.quantize_activations or part.name != "unet":
        palette = partial(palettize.palettize, nbits=nbits, target=target) if nbits else None
        convert(part, target, package, palette)
        return
    plain = package.with_suffix(f".fp16{package.suffix}")
    convert(part, target, plain)
    w8a8.quantize(plain, w8a8.unet_feeds(source), package)
    shutil.rmtree(plain)


@contextmanager
def attention(source: Source, implementation: str) -> Iterator[None]:
    """Within the block the U-Net's attention has the form asked for."""
    unet = source.pipe.unet
    query_chunk = QUERY_CHUNK if implementation == "SPLIT_EINSUM_V2" else None
    plain = implementation == "ORIGINAL"
    with attention_as(unet, plain_attention) if plain else split_einsum(unet, query_chunk):
        yield


def facts_of(source: Source, options: Options, part: str = "unet") -> dict[str, Any]:
    """The facts that an ONNX bundle's manifest also has, and how a part's package was made."""
    of_unet = part.startswith("unet")
    recipe = options.recipe("unet" if of_unet else part)
    recipe = recipe | ({"attention": options.attention_implementation} | source.folded if of_unet else {})
    return model_facts(source, options.precision, recipe) | {
        "attention_implementation": options.attention_implementation,
        "min_deployment_target": options.min_deployment_target,
        "compute_unit": options.compute_unit,
        "unet_output": "epsilon",
        "apple_version": APPLE_VERSION,
    }


def verify(reference: Reference, packages: dict[str, Path], options: Options) -> Parity:
    """Compare every package and the whole picture with PyTorch; UserError below the threshold."""
    source = reference.source
    what = f"Core ML {options.precision} of {source.name}"
    overflows: dict[str, str] = {}
    parity = reference.compare(
        evaluated(packages, source.scaling_factor, overflows, told(source)), options.threshold_db
    )
    refuse_overflow(parity, what, overflows)
    refuse_below(parity, what)
    real: Measure = not_run(NEEDS_MACOS)
    if on_macos():
        network = predicted(packages, source.scaling_factor, options.compute_unit, told(source))
        device = reference.compare(network, options.threshold_db)
        refuse_below(device, f"{what}, predicted by Core ML,")
        real = device.picture
    parity.notes |= {"computed_by": "reference evaluator (export.mil)", "real_prediction": real}
    return parity


def refuse_overflow(parity: Parity, what: str, overflows: dict[str, str]) -> None:
    """Raise UserError that names the layer when a comparison failed because a value left fp16's range."""
    failed = "failed" in (parity.picture.status, *(module.status for module in parity.modules.values()))
    if failed and overflows:
        part, layer = next(iter(overflows.items()))
        raise UserError(f"{what} leaves fp16's range in the {part} ({layer}); nothing was written; {REMEDY}")
