"""The folder of an ONNX bundle: graphs, the configurations that loaders require, and the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import set_external_data

from export.configs import component_config, model_index, write_json, write_tokenizers
from export.facts import as_metadata, model_facts, model_manifest
from export.onnx.options import FUSED
from export.onnx.waiting import array_of, bring, bytes_in, forget, maker_of
from export.source import FACTS, Source
from export.tokens import check_written
from runtime.bundle import Manifest, describe_files, write_manifest
from runtime.errors import BundleError, UserError

INLINE_BYTES = 14_000_000  # of weights inside model.onnx; larger weights go to model.onnx_data
ALIGNMENT = 4096  # of each weight in model.onnx_data, so that it can be mapped into memory


def write_configs(folder: Path, source: Source) -> None:
    """Write everything but the graphs and the manifest."""
    for name in source.components:
        (folder / name).mkdir()
        write_json(folder / name / "config.json", component_config(source, name))
    write_tokenizers(folder, source)
    for name in source.kind.encoders.values():
        check_written(folder / name, getattr(source.pipe, name))
    source.pipe.scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", model_index(source))


def finish_bundle(folder: Path, source: Source, precision: str, parity: dict[str, Any], steps: int) -> Manifest:
    """Store the measurements in every graph, and write manifest.json with the hash of every file.

    parity: figures and recipe. steps: the most that the U-Net can be asked for. Raises UserError when the checkpoint's
    facts do not fit a manifest.
    """
    facts = model_facts(source, precision, parity.get("recipe"), steps) | {"parity": parity}
    for path in [*folder.glob("*/model.onnx"), *folder.glob(FUSED)]:
        note(path, facts)
    said = model_manifest(source, precision, steps) | source.facts()
    said |= {"variation": source.variation} if source.variation else {}
    try:
        manifest = Manifest.from_dict(said | {"files": describe_files(folder), "parity": parity})
    except BundleError as error:
        raise UserError(f"{source.folder / FACTS}: {error}") from error
    write_manifest(folder, manifest)
    return manifest


def note(path: Path, facts: dict[str, Any]) -> None:
    """Store facts in a written graph's metadata; weights in other files stay as they are."""
    model = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(model, as_metadata(facts))
    onnx.save(model, path)


def write_graph(folder: Path, model: onnx.ModelProto) -> None:
    """Write model.onnx, and model.onnx_data where the weights exceed INLINE_BYTES.

    The weights move from `model` to the file: the model is unusable afterwards.
    """
    del model.graph.value_info[:]  # loaders infer them
    outside = split_weights(model)
    if outside:
        with (folder / "model.onnx_data").open("wb") as file:
            for tensor in outside:
                move_out(tensor, file)
    for tensor in model.graph.initializer:
        bring(tensor)
    forget()
    onnx.save(model, folder / "model.onnx")


def split_weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The largest weights, without which the rest fits inline; in the graph's order."""
    tensors = model.graph.initializer
    sizes = [bytes_in(tensor) for tensor in tensors]
    total = sum(sizes)
    outside = set()
    for index in sorted(range(len(tensors)), key=lambda i: -sizes[i]):
        if total <= INLINE_BYTES:
            break
        outside.add(index)
        total -= sizes[index]
    return [tensors[index] for index in sorted(outside)]


def move_out(tensor: onnx.TensorProto, file: Any) -> None:
    """Append a weight to the data file and leave a reference in the graph."""
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    offset = file.tell()
    if maker_of(tensor) is None:
        file.write(tensor.raw_data)
    else:
        file.write(np.ascontiguousarray(array_of(tensor)).data)
    tensor.raw_data = b""  # without which set_external_data refuses
    set_external_data(tensor, "model.onnx_data", offset=offset, length=file.tell() - offset)
    tensor.ClearField("raw_data")
