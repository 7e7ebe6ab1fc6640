"""Run an ONNX bundle's graphs in ONNX Runtime, as functions of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from export.checks.measure import Network
from export.checks.reference import Reference
from export.graphs import PARAMETERS
from export.heap import give_back_memory
from export.source import Floats, Ids
from export.text import PLAIN, Text, Told
from runtime.tokenizer.conditioning import TextEncoder


def open_session(model: onnx.ModelProto | Path, folded: bool = True) -> Any:
    """An ONNX Runtime session on the CPU, on as many threads as PyTorch uses here.

    Without folded, weights in fewer bits become fp32 in each call, layer by layer, and not all when it is opened.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = str(model) if isinstance(model, Path) else model.SerializeToString()
    left_out = None if folded else {"ConstantFolding"}
    return onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
    )


def network_of(folder: Path, one_step: bool = False, told: Told = PLAIN, one_at_a_time: bool = False) -> Network:
    """The graphs of a bundle folder as a Network.

    one_step: its U-Net's timestep is folded. one_at_a_time: only the session in use is in memory.
    """
    paths = {name: folder / name / "model.onnx" for name in told.conditioning.components}
    present = {name: path for name, path in paths.items() if path.is_file()}
    if one_at_a_time:
        return network(OneAtATime(present), one_step, told)
    return network({name: open_session(path) for name, path in present.items()}, one_step, told)


class OneAtATime(Mapping[str, Any]):
    """Sessions by name, each opened when it is asked for, when the one before is closed."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = paths
        self.open: tuple[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        if self.open is None or self.open[0] != name:
            self.open = None  # before the other is opened
            give_back_memory()
            self.open = name, open_session(self.paths[name], folded=False)
        return self.open[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


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
        found = first("vae_encoder", {"sample": picture})
        variational = sessions["vae_encoder"].get_outputs()[0].name == PARAMETERS
        return found[:, : found.shape[1] // 2] if variational else found

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
