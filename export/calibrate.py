"""Ranges of each layer's inputs and outputs on real data: prompts, noise and the pipeline's own steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.layers import Layer, calibration, draw, layers, observed
from export.source import Floats, Source

MORE_STEPS = 4  # every other batch also runs the later timesteps
BINS = 4096  # bins in a tensor's histogram
SAMPLE = 8192  # values kept from a tensor per call
CLIPS = np.linspace(0.5, 1.0, 26)  # shares of the full range to try

Range = tuple[float, float]


@dataclass
class Seen:
    """What passed one side of a layer: its limits and a sample of its values."""

    low: float = 0.0
    high: float = 0.0
    values: list[Floats] = field(default_factory=list)

    def add(self, tensor: Tensor) -> None:
        """Record one call's tensor. The stride is odd, so that the sample covers every column of a feature map."""
        low, high = torch.aminmax(tensor)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        stride = max(1, tensor.numel() // SAMPLE) | 1
        self.values.append(tensor.flatten()[::stride].numpy().copy())

    def range(self) -> Range:
        """The clipped range that an 8-bit code reproduces best, see `best_clip`."""
        counts = np.histogram(np.concatenate(self.values), BINS, (self.low, self.high))[0].astype(np.float64)
        return best_clip(counts, self.low, self.high)


def calibrate(source: Source, prompts: int, batch: int) -> Mapping[str, tuple[Range, Range]]:
    """Layer name -> (range of its input, range of its output) over `prompts` pictures in one step, half in four too.

    Embedding tables, whose inputs are ids, are skipped.
    """
    seen: dict[str, tuple[Seen, Seen]] = {}

    def note(layer: Layer, given: Tensor, output: Tensor) -> Tensor:
        if given.is_floating_point():
            sides = seen.setdefault(layer.name, (Seen(), Seen()))
            sides[0].add(given)
            sides[1].add(output)
        return output

    with torch.no_grad(), observed(layers(source), note):
        for i, (ids, noise) in enumerate(calibration(source, prompts, batch)):
            for steps in (1, MORE_STEPS) if i % 2 == 0 and not source.large else (1,):
                draw(source, ids, noise, steps)
    return {name: (given.range(), output.range()) for name, (given, output) in seen.items()}


def best_clip(counts: npt.NDArray[np.float64], low: float, high: float) -> Range:
    """The share of [low, high] whose 256 levels reproduce a histogram over it with the least squared error."""
    if high - low < 1e-12:
        return 0.0, 1e-6
    edges = np.linspace(low, high, len(counts) + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
    tried = [(low * share, high * share) for share in CLIPS]
    return min(tried, key=lambda one: float(counts @ (middles - coded(middles, *one)) ** 2))


def coded(values: Floats, low: float, high: float) -> Floats:
    """`values` rounded to the 256 levels of [low, high]."""
    scale, zero = scale_and_zero(low, high)
    codes = np.clip(np.rint(values / scale) + zero, 0, 255)
    return np.asarray((codes - zero) * scale, np.float32)


def scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of an unsigned 8-bit code over [low, high] that represents 0 exactly."""
    scale = np.float32((high - low) / 255)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255))
