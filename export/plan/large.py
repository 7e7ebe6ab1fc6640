"""Estimates the peak memory of exporting a large checkpoint to ONNX, whose weights are in memory once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.weights.files import Weight

# Measured on random models of SDXL's structure in fp16 files: 2.1 GB in fp32 at 128 x 128: ONNX fp32 3.15 GB,
# int8-weights 3.5; 3.8 GB at 512 x 512: fp16 5.5 GB; SDXL's true 13.9 GB there: fp16 17.2, int8-weights 19.4 GB.
BASE = 650_000_000  # the libraries, and tracing
MAPPED = 0.7  # of the largest part's file is in memory while its numbers become fp32
TRACED = 1.25  # copies of an autoencoder's half that its graph holds
CODES = 0.3  # of a part's fp32 bytes: its 8-bit codes, before they are written
PRICED_SIDE = 16  # latents along a side that pricing decodes (export.onnx.quantize.prices)
# Numbers per token and channel that a backward pass through a U-Net keeps: errors, and what gradients need.
BLOCK, RESNET = 34, 9  # of a transformer block, of a residual block
WIDTHS = (320, 640, 1280, 1280)  # of Stable Diffusion, where a config does not say


def large_memory(
    folder: Path, weights: Mapping[str, Mapping[str, Weight]], pictures: int, decoder: int, calibration: int
) -> int:
    """Estimated peak in bytes.

    pictures: bytes of the decoder's layers for one picture. decoder: that pricing keeps of the part of a picture that
    it decodes, 0 where no layer is priced; calibration: for activation ranges.
    """
    counts = {part: sum(weight.count for weight in found.values()) for part, found in weights.items()}
    stored = {
        part: sum(weight.count * weight.bits // 8 for weight in found.values()) for part, found in weights.items()
    }
    largest = max(counts, key=lambda part: counts[part])
    halves = [4 * count for part, count in counts.items() if part.startswith("vae")]
    opened = MAPPED * stored[largest] if stored[largest] < 4 * counts[largest] else 0
    more = [pictures, opened, TRACED * max(halves, default=0)]
    if decoder:
        more += [decoder + held_unet(folder) + calibration, CODES * 4 * counts[largest]]
    return int(BASE + 4 * sum(counts.values()) + max(more))


def held_unet(folder: Path) -> int:
    """Bytes that pricing keeps of the U-Net, for one picture."""
    unet = json.loads((folder / "unet" / "config.json").read_text())
    size = unet.get("sample_size") or 64
    height, width = size if isinstance(size, list) else (size, size)
    widths = unet.get("block_out_channels") or WIDTHS
    depths, layers = (
        per_level(unet, "transformer_layers_per_block", widths),
        per_level(unet, "layers_per_block", widths, 2),
    )
    kinds = unet.get("down_block_types") or ["CrossAttn"] * (len(widths) - 1) + ["Down"]
    numbers = 0
    for i, channels in enumerate(widths):
        blocks = 2 * layers[i] + 1  # of the way down and of the way up
        attends = BLOCK * depths[i] * blocks if "CrossAttn" in kinds[i] else 0
        numbers += height * width // 4**i * channels * (RESNET * blocks + attends)
    middle = height * width // 4 ** (len(widths) - 1) * widths[-1]
    return int(4 * (numbers + middle * (2 * RESNET + BLOCK * depths[-1])))


def per_level(unet: Mapping[str, Any], key: str, widths: Sequence[int], usual: int = 1) -> list[int]:
    """A whole number for each level; of a list of lists, the largest."""
    value = unet.get(key, usual)
    several = value if isinstance(value, list) else [value] * len(widths)
    return [max(one) if isinstance(one, list) else int(one) for one in several]
