"""Estimates an export's peak memory from the sizes of the checkpoint's weights and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.picture_size import latents_of
from export.plan.large import PRICED_SIDE, large_memory
from train.weights.files import Weight


@dataclass(frozen=True)
class Memory:
    """An exporter's peak: `base` bytes plus fp32 copies of all weights and of the largest part's, this many of each.

    base: the libraries, and tracing itself.
    """

    base: int
    all_weights: float
    largest: float


# Measured: a sticker-sized model (136 MB of fp32 weights): ONNX fp32 1.23 GB, int8 2.28 GB, OpenVINO fp32 1.15 GB, Core
# ML 0.9 GB; an SD-2.1-shaped one (4.8 GB): ONNX fp32 10.9 GB, fp16 13.8, int8 10.6, OpenVINO fp32 15.6, int8 12.1, Core
# ML 6-bit 9.0, the report of export.parity 5.6 GB.
MEMORY = {
    "onnx": Memory(800_000_000, 1.2, 1.25),  # the pipeline; one part traced, then written, then in a session
    "coreml": Memory(800_000_000, 1.0, 1.0),  # the pipeline; one part at a time
    "openvino": Memory(900_000_000, 1.0, 3.0),  # the pipeline; traced copy, fp32 and stored constants
}
CALIBRATION = 1_200_000_000  # more for activations and their gradients: onnx int8
# Tensors of a picture's size and of the outermost width that a backward pass through a KL decoder keeps: layer outputs
# for the gradients, and each layer's error in every kind of fewer bits. Measured on Stable Diffusion's decoder, three
# blocks per level, random weights: 54,400 bytes per pixel with two kinds at 192 x 192 (2.0 GB), 46,600 with one.
HELD = {"int8": 106, "int8-weights": 91, "int4-weights": 91}
MEASURED_BLOCKS = 3
LARGE, BATCH = 200_000_000, 4  # parameters of a U-Net beyond which `large` estimates; pictures priced at a time below
HALVES = 0.6  # more of all weights: onnx fp16, both forms of which exist for a while
PROCESS = 600_000_000  # an interpreter with PyTorch and one engine
LOADED = 1.5  # bytes that an engine uses per byte of an export: its own layout and the file's
LAYER_OUTPUTS = 3  # of a picture's size that exist at once: what a layer reads, adds and produces


def peak_memory(
    folder: Path, format: str, precision: str, weights: Mapping[str, Mapping[str, Weight]], pixels: int = 0
) -> int:
    """Estimated peak of the process, in bytes. pixels: of the largest picture, 0 for the checkpoint's own."""
    if format == "onnx" and sum(weight.count for weight in weights["unet"].values()) > LARGE:
        part = priced_decoder(folder, HELD[precision], PRICED_SIDE) if precision in HELD else 0
        calibrated = CALIBRATION if precision == "int8" else 0
        return large_memory(folder, weights, activations(folder, pixels), part, calibrated)
    sizes = [4 * sum(weight.count for weight in found.values()) for found in weights.values()]
    factors = MEMORY[format]
    needed = factors.base + factors.all_weights * sum(sizes) + factors.largest * max(sizes)
    if (format, precision) == ("onnx", "int8"):
        needed += CALIBRATION
    if (format, precision) == ("onnx", "fp16"):
        needed += HALVES * sum(sizes)
    needed += activations(folder, pixels)
    if format == "onnx" and precision in HELD:
        needed = max(needed, factors.base + sum(sizes) + BATCH * priced_decoder(folder, HELD[precision]))
    return int(needed)


def priced_decoder(folder: Path, held: int, side: int | None = None) -> int:
    """Bytes that pricing keeps of one picture in a KL decoder, whose layers work at the picture's full size.

    Tiny decoders work below it: `CALIBRATION` covers them. side: of the latents' part that is decoded; None for all.
    """
    vae = json.loads((folder / "vae" / "config.json").read_text())
    if vae.get("_class_name") != "AutoencoderKL":
        return 0
    blocks = vae.get("layers_per_block", 1) + 1
    pixels = picture_pixels(folder)
    if side is not None:
        pixels = min(pixels, side**2 * 4 ** (len(decoder_channels(folder)) - 1))
    return int(4 * held * blocks / MEASURED_BLOCKS * pixels * vae.get("block_out_channels", [64])[0])


def report_memory(folder: Path, export_bytes: int, weights: int) -> int:
    """Estimated peak of export.parity: PyTorch's outputs first, then one export (the largest has `export_bytes`).

    weights: how many the checkpoint has.
    """
    return PROCESS + max(4 * weights + activations(folder), int(LOADED * export_bytes))


def activations(folder: Path, pixels: int = 0) -> int:
    """Bytes of the decoder's widest layers at the picture's size, f32, for one picture. pixels: see `peak_memory`."""
    channels = decoder_channels(folder)
    return int(4 * LAYER_OUTPUTS * (pixels or picture_pixels(folder)) * channels[min(1, len(channels) - 1)])


def picture_pixels(folder: Path) -> int:
    """Pixels of one picture."""
    height, width = latents_of(json.loads((folder / "unet" / "config.json").read_text()))
    return int(height * width * 4 ** (len(decoder_channels(folder)) - 1))


def decoder_channels(folder: Path) -> list[int]:
    """The decoder's channels by level, outermost first."""
    vae = json.loads((folder / "vae" / "config.json").read_text())
    return list(vae.get("block_out_channels") or vae["decoder_block_out_channels"])
