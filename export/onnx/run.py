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
from export.text import PLAIN, Text, Told
from runtime.tokenizer.conditioning import TextEncoder


def open_session(model: onnx.ModelProto | Path) -> Any:
    """An ONNX Runtime session on the CPU, on as many threads as PyTorch uses here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def network_of(folder: Path, one_step: bool = False, told: Told = PLAIN) -> Network:
    """The graphs of a bundle folder as a Network; one_step: its U-Net's timestep is folded."""
    paths = {name: folder / name / "model.onnx" for name in told.conditioning.components}
    return network({name: open_session(path) for name, path in paths.items() if path.is_file()}, one_step, told)


def network(sessions: Mapping[str, Any], one_step: bool = False, told: Told = PLAIN) -> Network:
    """Sessions by component name as a Network."""

    def first(component: str, feed: dict[str, Any]) -> Floats:
        return sessions[component].run(None, feed)[0]  # type: ignore[no-any-return]

    def encode(one: TextEncoder, ids: Ids) -> list[Floats]:
        return sessions[one.component].run(list(one.outputs), {"input_ids": ids})  # type: ignore[no-any-return]

    def unet(sample: Floats, timestep: float, text: Text) -> Floats:
        return first(
            "unet", {"sample": sample, "timestep": np.array(timestep, np.float32), **text.inputs(told.sizes(sample))}
        )

    def vae_encoder(picture: Floats) -> Floats:
        return first("vae_encoder", {"sample": picture})

    return Network(
        text_encoder=lambda ids: told.text(ids, encode),
        unet=unet,
        vae_decoder=lambda latents: first("vae_decoder", {"latent_sample": latents}),
        vae_encoder=vae_encoder if "vae_encoder" in sessions else None,
        one_step=one_step,
    )


def fused_pixels(path: Path, reference: Reference) -> Floats:
    """Pictures u8[N,H,W,3] of a reference's cases, one by one, by a fused graph."""
    session = open_session(path)
    names = [port.name for port in session.get_inputs() if port.name.startswith("input_ids")]
    rows = []
    for ids, noise in zip(reference.ids, reference.noise, strict=True):
        feed = dict(zip(names, np.split(ids[None], len(names), axis=1), strict=True))
        rows.append(session.run(None, feed | {"noise": noise[None]})[0])
    return np.concatenate(rows)
