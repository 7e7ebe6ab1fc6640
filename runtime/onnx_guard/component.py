"""A component of a bundle, inspected before ONNX Runtime reads it: its graph, its files, its shapes."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from runtime.errors import BundleError
from runtime.manifest import Manifest
from runtime.onnx_guard.graph import Contents, inspect, outputs
from runtime.onnx_guard.wire import Malformed
from runtime.untrusted import check_place, open_inside, shown

MOST_MODEL = 2**31 - 1  # bytes: beyond, protobuf does not read a file
MOST_PADDING = 2**20  # bytes after the last weight; writers align to pages
F32 = npt.NDArray[np.float32]
Wanted = tuple[int | None, ...]


def check_component(folder: Path, component: str, manifest: Manifest) -> set[str]:
    """The files of a component's model, by their paths in the bundle, once it is clear that ONNX Runtime may read them.

    Raises BundleError with the reason when not. model.onnx must be well-formed, use only known operators, keep its
    weights in files that the manifest lists, and take and give arrays in the manifest's shapes.
    """
    path = folder / component / "model.onnx"
    known = manifest.conditioning.components
    if component not in known:
        raise BundleError(f"{path.parent} is not a component: those are {', '.join(known)}")
    try:
        with _mapped(folder, f"{component}/model.onnx") as data:
            found = inspect(data)
        files = _check_files(folder, component, found, manifest)
        _check_shapes(component, found, manifest)
        return {f"{component}/model.onnx", *files}
    except (Malformed, ValueError) as error:  # the latter: an empty file cannot be mapped
        raise BundleError(f"{path} is not a model that can be opened: {shown(error, 200)}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def _mapped(folder: Path, name: str) -> Iterator[mmap.mmap]:
    """The file's bytes, mapped: only those that are looked at are read."""
    with (
        open_inside(folder, name, MOST_MODEL) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield data


def _check_files(folder: Path, component: str, found: Contents, manifest: Manifest) -> set[str]:
    """The files with weights: all in the component's folder, listed in the manifest, and as long as they need to be."""
    sizes: dict[str, int] = {}
    ends: dict[str, int] = {}
    for one in found.external:
        name = f"{component}/{one.location}"
        if PurePosixPath(one.location).name != one.location or name not in manifest.files:
            raise Malformed(f"it keeps weights in {one.location!r}, which the manifest does not list beside it")
        if name not in sizes:
            sizes[name] = check_place(folder, name).st_size
        ends[name] = max(ends.get(name, 0), one.offset + one.length)
    for name, size in sizes.items():
        if not ends[name] <= size <= ends[name] + MOST_PADDING:
            raise Malformed(f"its weights in {name} end at byte {ends[name]}, which has {size} bytes")
    return set(sizes)


def _check_shapes(component: str, found: Contents, manifest: Manifest) -> None:
    """Each port that the program uses in the manifest's shape, which the graph must state; the batch may be open.

    Where the manifest has several sizes, the sides of latents and pictures may be open too.

    `session`, which knows their names, checks whether the ports exist at all.
    """
    picture: Wanted = (3, *manifest.image_size)
    code: Wanted = manifest.latent_shape
    tokens = manifest.max_tokens
    if manifest.sizes:
        picture, code = (3, None, None), (code[0], None, None)
    told: dict[str, Wanted] = {"encoder_hidden_states": (tokens, None), "text_embeds": (None,), "time_ids": (6,)}
    inputs: dict[str, dict[str, Wanted]] = {
        "unet": {"sample": code, **told},
        "vae_decoder": {"latent_sample": code},
        "vae_encoder": {"sample": picture},
    }
    results: dict[str, dict[str, Wanted]] = {
        "unet": {"out_sample": code},
        "vae_decoder": {"sample": picture},
        "vae_encoder": {"latent_sample": code, "latent_parameters": (None, *code[1:])},
    }
    for encoder in manifest.conditioning.text_encoders:
        inputs[encoder.component] = {"input_ids": (tokens,)}
        results[encoder.component] = {encoder.states: (tokens, None)}
        if encoder.pooled is not None:
            results[encoder.component][encoder.pooled] = (None,)
    for ports, wanted in ((found.inputs, inputs[component]), (found.outputs, results[component])):
        for name in ports.keys() & wanted.keys():
            _check_port(name, ports[name], (1, *wanted[name]))


def _check_port(name: str, sizes: Wanted, wanted: Wanted) -> None:
    pairs = zip(sizes[1:], wanted[1:], strict=False)
    right = len(sizes) == len(wanted) and sizes[0] in (None, 1)
    if not right or any(size != expected and expected is not None for size, expected in pairs):
        raise Malformed(f"{name} has the shape {_told(sizes)}, by the manifest it is {_told(wanted)}")


def declared_output(path: Path, name: str) -> Wanted:
    """The sizes that a model.onnx declares for one output; BundleError when it cannot be read."""
    try:
        with _mapped(path.parent, path.name) as data:
            return outputs(data)[name]
    except (Malformed, ValueError, KeyError, IndexError, OSError) as error:
        raise BundleError(f"{path} is not a model that can be opened: {shown(error, 200)}") from error


def check_output(path: Path, output: F32, declared: Wanted) -> F32:
    """The output itself, when it has the sizes that the graph declares: ONNX Runtime gives others too. BundleError."""
    pairs = zip(output.shape, declared, strict=False)
    if output.ndim != len(declared) or any(size not in (None, found) for found, size in pairs):
        raise BundleError(f"{path} gave an array of {_told(output.shape)} where it declares {_told(declared)}")
    return output


def _told(sizes: Wanted) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes) or "of one number"
