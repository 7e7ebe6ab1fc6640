"""Run an ONNX bundle's graphs in ONNX Runtime, as functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from export.checks.measure import Network
from export.checks.reference import Reference
from export.source import Floats, Ids
from runtime.manifest import COMPONENTS


def open_session(model: onnx.ModelProto | Path) -> Any:
    """An ONNX Runtime session on the CPU, on as many threads as PyTorch uses here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def network_of(folder: Path, one_step: bool = False) -> Network:
    """The graphs of a bundle folder as a Network; one_step: its U-Net's timestep is folded."""
    paths = {name: folder / name / "model.onnx" for name in COMPONENTS}
    return network({name: open_session(path) for name, path in paths.items() if path.is_file()}, one_step)


def network(sessions: Mapping[str, Any], one_step: bool = False) -> Network:
    """Sessions by component name as a Network."""

    def first(component: str, feed: dict[str, Any]) -> Floats:
        return sessions[component].run(None, feed)[0]  # type: ignore[no-any-return]

    def text_encoder(ids: Ids) -> Floats:
        return first("text_encoder", {"input_ids": ids})

    def unet(sample: Floats, timestep: float, states: Floats) -> Floats:
        feed = {"sample": sample, "timestep": np.array(timestep, np.float32), "encoder_hidden_states": states}
        return first("unet", feed)

    def vae_encoder(picture: Floats) -> Floats:
        return first("vae_encoder", {"sample": picture})

    return Network(
        text_encoder=text_encoder,
        unet=unet,
        vae_decoder=lambda latents: first("vae_decoder", {"latent_sample": latents}),
        vae_encoder=vae_encoder if "vae_encoder" in sessions else None,
        one_step=one_step,
    )


def fused_pixels(path: Path, reference: Reference) -> Floats:
    """Pictures u8[N,H,W,3] of a reference's cases, one by one, by a fused graph."""
    session = open_session(path)
    cases = zip(reference.ids, reference.noise, strict=True)
    return np.concatenate([session.run(None, {"input_ids": ids[None], "noise": one[None]})[0] for ids, one in cases])
