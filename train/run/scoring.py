"""One number for a checkpoint: KID-Lite0 of one-step pictures against the real pictures of the same captions."""

from __future__ import annotations

from torch import Tensor

from runtime.pixels import to_uint8
from train.evaluate.metrics import Lite0, kernel_distance


class Scorer:
    """Real pictures' features, kept; lower scores are better. A guide within a run, not a figure for a table."""

    def __init__(self, real: Tensor) -> None:
        """real: f32[N, 3, H, W] in [-1, 1]."""
        self.network = Lite0()
        self.real = self._features(real)

    def _features(self, pictures: Tensor) -> Tensor:
        return self.network.of(to_uint8(pictures.permute(0, 2, 3, 1).numpy()))

    def __call__(self, pictures: Tensor) -> float:
        return kernel_distance(self.real, self._features(pictures))
