"""A saved .mlpackage: its name, its metadata, its halves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.coreml.convert import quiet
from export.facts import as_metadata

PARTS = ("text_encoder", "text_encoder_2", "unet", "unet_chunk1", "unet_chunk2", "vae_decoder", "vae_encoder")
APPLE_VERSION = "1.1.0"  # of ml-stable-diffusion, whose conventions the packages follow
VERSION_KEY = "com.github.apple.ml-stable-diffusion.version"
MODEL = Path("Data", "com.apple.CoreML", "model.mlmodel")


def package_name(model: str, part: str) -> str:
    """The file name that Apple's Python pipeline looks for."""
    return f"Stable_Diffusion_version_{model}_{part}.mlpackage".replace("/", "_")


def packages_in(folder: Path, model: str) -> dict[str, Path]:
    """The packages of an export, by part."""
    paths = {part: folder / package_name(model, part) for part in PARTS}
    return {part: path for part, path in paths.items() if path.is_dir()}


def describe(package: Path, part: str, facts: Mapping[str, Any]) -> None:
    """Write the facts into a package's metadata, in place.

    The date and random identifiers are removed, so that the same checkpoint gives the same files.
    """
    spec = read_spec(package)
    metadata = spec.description.metadata
    metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    metadata.shortDescription = f"{part} of {facts['name']}, a one-step text-to-image model"
    metadata.versionString = facts["name"]
    for key, value in as_metadata(facts).items():
        metadata.userDefined[key] = value
    if part.startswith("unet"):
        metadata.userDefined[VERSION_KEY] = APPLE_VERSION
    write_spec(package, spec)
    fix_identifiers(package / "Manifest.json")


def add_metadata(package: Path, facts: Mapping[str, Any]) -> None:
    """Write more facts into a package's metadata, in place."""
    spec = read_spec(package)
    for key, value in as_metadata(facts).items():
        spec.description.metadata.userDefined[key] = value
    write_spec(package, spec)


def read_spec(package: Path) -> Any:
    """The Model message of a package; its weights stay on the disk."""
    with quiet():
        from coremltools.proto import Model_pb2

        spec = Model_pb2.Model()
        spec.ParseFromString((package / MODEL).read_bytes())
        return spec


def write_spec(package: Path, spec: Any) -> None:
    """Replace a package's Model message."""
    (package / MODEL).write_bytes(spec.SerializeToString(deterministic=True))


def fix_identifiers(manifest: Path) -> None:
    """Derive a manifest's identifiers from the paths that they refer to."""
    text = manifest.read_text(encoding="utf-8")
    for identifier, entry in json.loads(text)["itemInfoEntries"].items():
        text = text.replace(identifier, str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper())
    manifest.write_text(text, encoding="utf-8")


def load_program(package: Path) -> Any:
    """A coremltools Program of a package, in memory with its weights."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = read_spec(package)
    return load(spec, spec.specificationVersion, str(package / MODEL.parent / "weights"))


def save_program(program: Any, like: Path, package: Path, same_ports: bool) -> None:
    """Write a Program that was made from the package `like`; same_ports: its inputs and outputs are the same."""
    from coremltools import ComputeUnit
    from coremltools.converters.mil.converter import mil_convert

    spec = read_spec(like)
    mil_convert(
        program,
        convert_from="milinternal",
        convert_to="mlprogram",
        compute_units=ComputeUnit.CPU_ONLY,
        specification_version=spec.specificationVersion,
        skip_model_load=True,
        package_dir=str(package),
        **({"model_description": spec.description} if same_ports else {}),
    )


def chunk(package: Path) -> tuple[Path, Path]:
    """Split a package into two of about the same size next to it, NAME_chunk1 and NAME_chunk2.

    Does the same as coremltools' bisect_model, which makes every second half an iOS16 program and fails from iOS17 on.
    """
    first, second = (package.with_name(f"{package.stem}_chunk{n}.mlpackage") for n in (1, 2))
    with quiet():
        from coremltools.models import utils

        program = whole_block(package)
        index, *_ = utils._get_op_idx_split_location(program)
        save_program(utils._make_first_chunk_prog(program, index), package, first, same_ports=False)
        program = whole_block(package)
        opset = program.functions["main"].opset_version
        rest = utils._make_second_chunk_prog(program, index)
        rest.functions["main"].opset_version = opset
        save_program(rest, package, second, same_ports=False)
    return first, second


def whole_block(package: Path) -> Any:
    """A Program whose operations are a list, as the functions that split it require."""
    program = load_program(package)
    main = program.functions["main"]
    main.operations = list(main.operations)
    return program
