"""Ranges of a graph's activations on real inputs: prompts, noise and the pipeline's own steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.measure import Network
from export.onnx_run import open_session
from export.prompts import CALIBRATION
from export.source import Floats, Source
from runtime import schedule

BATCH = 8
MORE_STEPS = 4  # of which every batch's later timesteps are seen as well
BINS = 4096  # of a tensor's histogram
CLIPS = np.linspace(0.5, 1.0, 26)  # shares of the full range that are tried
SEED = 10_000  # calibration noise: seeds that the parity cases do not use

Feed = dict[str, npt.NDArray[Any]]
Range = tuple[float, float]


def pipeline_feeds(
    source: Source, network: Network, prompts: Sequence[str] = CALIBRATION
) -> dict[str, list[Feed]]:
    """What each component is fed while the pipeline draws: batches in one step, every other in four too."""
    feeds: dict[str, list[Feed]] = {"text_encoder": [], "unet": [], "vae_decoder": [], "vae_encoder": []}
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        ids = source.encode(batch)
        feeds["text_encoder"].append({"input_ids": ids})
        states = network.text_encoder(ids)
        noise = source.noise([SEED + start + i for i in range(len(batch))])
        for steps in (1, MORE_STEPS) if start % (2 * BATCH) == 0 else (1,):
            draw(source, network, states, noise, steps, feeds)
    return feeds


def draw(
    source: Source, network: Network, states: Floats, noise: Floats, steps: int, feeds: dict[str, list[Feed]]
) -> None:
    """Make one batch of pictures in `steps` steps and note what the U-Net and the autoencoder are fed."""
    latents = noise
    for (timestep, *level), following in pairwise([*source.steps(steps), (0, *schedule.CLEAN)]):
        time = np.array(timestep, np.float32)
        feeds["unet"].append({"sample": latents, "timestep": time, "encoder_hidden_states": states})
        output = network.unet(latents, float(timestep), states)
        now, then = (level[0], level[1]), (following[1], following[2])
        latents = schedule.ddim_step(latents, output, source.prediction_type, now, then).astype(np.float32)
    latents = latents / np.float32(source.scaling_factor)
    feeds["vae_decoder"].append({"latent_sample": latents})
    feeds["vae_encoder"].append({"sample": network.vae_decoder(latents)})


def ranges(model: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Feed]) -> dict[str, Range]:
    """(low, high) of each tensor: the clipped range that an 8-bit code reproduces best, see `best_clip`."""
    limits: dict[str, Range] = dict.fromkeys(tensors, (0.0, 0.0))
    for name, value in observed(model, tensors, feeds):
        low, high = limits[name]
        limits[name] = min(low, float(value.min())), max(high, float(value.max()))
    counts = {name: np.zeros(BINS) for name in tensors}
    for name, value in observed(model, tensors, feeds):
        counts[name] += np.histogram(value, BINS, limits[name])[0]
    return {name: best_clip(counts[name], *limits[name]) for name in tensors}


def observed(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Feed]
) -> Iterator[tuple[str, Floats]]:
    """Each tensor's value on each feed."""
    inputs = {port.name for port in model.graph.input}
    inner = [name for name in tensors if name not in inputs]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner]
    exposed.graph.output.extend(ports)
    session = open_session(exposed)
    for feed in feeds:
        values = session.run(inner, feed) if inner else []
        yield from zip(inner, values, strict=True)
        yield from ((name, feed[name]) for name in tensors if name in inputs)


def best_clip(counts: npt.NDArray[np.float64], low: float, high: float) -> Range:
    """The share of [low, high] whose 256 levels give a histogram over it back with the least squared error."""
    if high - low < 1e-12:
        return 0.0, 1e-6
    edges = np.linspace(low, high, len(counts) + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
    tried = [(low * share, high * share) for share in CLIPS]
    return min(tried, key=lambda one: float(counts @ (middles - coded(middles, *one)) ** 2))


def coded(values: Floats, low: float, high: float) -> Floats:
    """`values` through the 256 levels of [low, high]."""
    scale, zero = scale_and_zero(low, high)
    codes = np.clip(np.rint(values / scale) + zero, 0, 255)
    return np.asarray((codes - zero) * scale, np.float32)


def scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of an unsigned 8-bit code over [low, high], which holds 0 exactly."""
    scale = np.float32((high - low) / 255)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255))
