"""Run a folder of Core ML packages: by the reference evaluator anywhere, by Core ML itself on macOS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.coreml_graphs import APPLE_SCALING
from export.measure import Network
from export.mil import Program
from export.source import Floats, Ids

Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, Array]], dict[str, Array]]
NEEDS_MACOS = "needs macOS"


def on_macos() -> bool:
    """Whether Core ML can predict here."""
    return sys.platform == "darwin"


def evaluated(packages: Mapping[str, Path], scaling_factor: float) -> Network:
    """The packages, by part, computed by the reference evaluator."""
    programs = {name: Program(path) for name, path in packages.items()}
    runners = {name: picking([port.name for port in one.inputs], one.run) for name, one in programs.items()}
    return apple_network(runners, scaling_factor)


def predicted(packages: Mapping[str, Path], scaling_factor: float, compute_unit: str) -> Network:
    """The packages, by part, computed by Core ML (macOS only)."""
    import coremltools as ct

    unit = ct.ComputeUnit[compute_unit]
    models = {name: ct.models.MLModel(str(path), compute_units=unit) for name, path in packages.items()}
    runners = {
        name: picking([port.name for port in model.get_spec().description.input], model.predict)
        for name, model in models.items()
    }
    return apple_network(runners, scaling_factor)


def picking(names: list[str], run: Runner) -> Runner:
    """`run`, fed only what it takes: the second half of a U-Net does not take all that the first does."""
    return lambda feed: run({name: feed[name] for name in names})


def apple_network(runners: Mapping[str, Runner], scaling_factor: float) -> Network:
    """Packages as Apple's Python pipeline feeds them: a picture a call, fp16, latents divided by 0.18215."""

    def text_encoder(ids: Ids) -> Floats:
        one = runners["text_encoder"]
        rows = [one({"input_ids": row[None].astype(np.float32)})["last_hidden_state"] for row in ids]
        return np.concatenate(rows)

    def unet(sample: Floats, timestep: float, states: Floats) -> Floats:
        rows = [
            whole_unet(runners, latents[None], timestep, text[None])
            for latents, text in zip(sample, states, strict=True)
        ]
        return np.concatenate(rows)

    def vae_decoder(latents: Floats) -> Floats:
        z = (latents * (scaling_factor / APPLE_SCALING)).astype(np.float16)
        return np.concatenate([runners["vae_decoder"]({"z": row[None]})["image"] for row in z])

    return Network(text_encoder, unet, vae_decoder, prediction_type="epsilon")


def whole_unet(runners: Mapping[str, Runner], sample: Floats, timestep: float, states: Floats) -> Floats:
    """noise_pred of one picture, by one package or by two chunks in a row."""
    feed: dict[str, Array] = {
        "sample": sample.astype(np.float16),
        "timestep": np.array([timestep], np.float16),
        "encoder_hidden_states": states.transpose(0, 2, 1)[:, :, None].astype(np.float16),
    }
    if "unet_chunk1" not in runners:
        return np.asarray(runners["unet"](feed)["noise_pred"], np.float32)
    between = runners["unet_chunk1"](feed)
    return np.asarray(runners["unet_chunk2"](feed | between)["noise_pred"], np.float32)
