"""A component of a bundle, inspected before ONNX Runtime reads it: its graph, its files, its shapes."""

from __future__ import annotations

import mmap
from pathlib import Path, PurePosixPath

from runtime.errors import BundleError
from runtime.inside import check_place, open_inside, shown
from runtime.manifest import Manifest
from runtime.onnx_file import Contents, inspect
from runtime.onnx_wire import Malformed

MOST_MODEL = 2**31 - 1  # bytes: beyond, protobuf does not read a file
Wanted = tuple[int | None, ...]


def check_component(folder: Path, component: str, manifest: Manifest) -> None:
    """Whether ONNX Runtime may read `component`/model.onnx; BundleError with the reason when not.

    It must be well-formed, use known operators alone, keep its weights in files that the manifest lists, and
    take and give arrays in the manifest's shapes.
    """
    path = folder / component / "model.onnx"
    try:
        found = _inspected(folder, f"{component}/model.onnx")
        _check_files(folder, component, found, manifest)
        _check_shapes(component, found, manifest)
    except (Malformed, ValueError) as error:  # the latter: an empty file cannot be mapped
        raise BundleError(f"{path} is no model that can be opened: {shown(error, 200)}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


def _inspected(folder: Path, name: str) -> Contents:
    with (
        open_inside(folder, name, MOST_MODEL) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return inspect(data)


def _check_files(folder: Path, component: str, found: Contents, manifest: Manifest) -> None:
    """Weights in other files: only in the component's folder, listed in the manifest, within the file."""
    sizes: dict[str, int] = {}
    for one in found.external:
        name = f"{component}/{one.location}"
        if PurePosixPath(one.location).name != one.location or name not in manifest.files:
            raise Malformed(f"it keeps weights in {one.location!r}, which the manifest does not list beside it")
        if name not in sizes:
            sizes[name] = check_place(folder, name).st_size
        if one.offset + one.length > sizes[name]:
            raise Malformed(f"it keeps weights beyond the end of {one.location}, which has {sizes[name]} bytes")


def _check_shapes(component: str, found: Contents, manifest: Manifest) -> None:
    """Each port that the program uses in the manifest's shape, or in one that the graph leaves open.

    Whether the ports are there at all is for `session` to say, which knows their names.
    """
    picture, code, tokens = (3, *manifest.image_size), manifest.latent_shape, manifest.max_tokens
    inputs: dict[str, dict[str, Wanted]] = {
        "text_encoder": {"input_ids": (tokens,)},
        "unet": {"sample": code, "encoder_hidden_states": (tokens, None)},
        "vae_decoder": {"latent_sample": code},
        "vae_encoder": {"sample": picture},
    }
    outputs: dict[str, dict[str, Wanted]] = {
        "text_encoder": {"last_hidden_state": (tokens, None)},
        "unet": {"out_sample": code},
        "vae_decoder": {"sample": picture},
        "vae_encoder": {"latent_sample": code, "latent_parameters": (None, *code[1:])},
    }
    for ports, wanted in ((found.inputs, inputs[component]), (found.outputs, outputs[component])):
        for name in ports.keys() & wanted.keys():
            _check_port(name, ports[name], (1, *wanted[name]))


def _check_port(name: str, sizes: Wanted, wanted: Wanted) -> None:
    pairs = zip(sizes, wanted, strict=False)
    if len(sizes) != len(wanted) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise Malformed(f"{name} has the shape {_told(sizes)}, by the manifest it is {_told(wanted)}")


def _told(sizes: Wanted) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes) or "of one number"
