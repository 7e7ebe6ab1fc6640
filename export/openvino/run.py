"""Run a folder of OpenVINO IR as functions of arrays, on any of OpenVINO's devices."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.checks.measure import Network
from export.graphs import PARAMETERS
from export.source import Floats, Ids
from export.text import PLAIN, Text, Told
from runtime.errors import UserError
from runtime.tokenizer.conditioning import TextEncoder

MODEL = "openvino_model.xml"


def load_openvino() -> Any:
    """The openvino module without its telemetry.

    On import openvino writes a client id into the home folder and sends events, unless openvino_telemetry is missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def devices() -> list[str]:
    """OpenVINO's devices on this machine, such as CPU, GPU and NPU."""
    return list(load_openvino().Core().available_devices)


def network_of(folder: Path, device: str = "CPU", precision_hint: str | None = None, told: Told = PLAIN) -> Network:
    """The models of a folder, compiled for `device`.

    precision_hint: f32, f16 or bf16; None for the device's own, which is bf16 on a CPU that has it. Raises UserError
    with OpenVINO's reason where the device is missing or cannot run them.
    """
    core = load_openvino().Core()
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision_hint} if precision_hint else {}
    if device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    paths = {name: folder / name / MODEL for name in told.conditioning.components}
    try:
        models = {name: core.compile_model(path, device, settings) for name, path in paths.items() if path.is_file()}
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot open {folder} on {device}: {reason(error)}") from error
    return network(models, told)


def reason(error: RuntimeError) -> str:
    """The last line of an OpenVINO error, which says what happened; the others say where."""
    return str(error).strip().splitlines()[-1]


def network(models: Mapping[str, Any], told: Told = PLAIN) -> Network:
    """Compiled models by component name as a Network."""

    def first(component: str, feed: dict[str, Any]) -> Floats:
        return np.array(models[component](feed)[0], np.float32)  # a copy: the next call writes into the same memory

    def encode(one: TextEncoder, ids: Ids) -> list[Floats]:
        found = models[one.component]({"input_ids": ids})
        return [np.array(found[name], np.float32) for name in one.outputs]

    def unet(sample: Floats, timestep: float, text: Text) -> Floats:
        given = text.inputs(told.sizes(sample))
        return first("unet", {"sample": sample, "timestep": np.array([timestep], np.int64), **given})

    def vae_encoder(picture: Floats) -> Floats:
        found = first("vae_encoder", {"sample": picture})
        variational = PARAMETERS in models["vae_encoder"].output(0).get_names()
        return found[:, : found.shape[1] // 2] if variational else found

    return Network(
        text_encoder=lambda ids: told.text(ids, encode),
        unet=unet,
        vae_decoder=lambda latents: first("vae_decoder", {"latent_sample": latents}),
        vae_encoder=vae_encoder if "vae_encoder" in models else None,
    )
