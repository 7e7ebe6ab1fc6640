"""Copies: pictures that are nearer to a training picture than real ones are to their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

QUANTILE = 0.05  # of real pictures' distances to their nearest neighbour
ROWS = 512


class Copies:
    """Finds the distance below which a picture counts as a copy, from real pictures that were not trained on.

    training, real: features f32[N, D], f32[M, D]. training_scenes, real_scenes: what each shows; in a world where equal
    scenes are equal pictures, a real picture's neighbours are those of other scenes.
    """

    def __init__(
        self, training: Tensor, training_scenes: Sequence[object], real: Tensor, real_scenes: Sequence[object]
    ) -> None:
        self.training = F.normalize(training, dim=1)
        numbers = {scene: number for number, scene in enumerate(dict.fromkeys(training_scenes))}
        shown = torch.tensor([numbers[scene] for scene in training_scenes])
        own = torch.tensor([numbers.get(scene, -1) for scene in real_scenes])
        nearest = []
        for start in range(0, len(real), ROWS):
            part = slice(start, start + ROWS)
            distances = self._distances(real[part]).masked_fill(own[part, None] == shown, torch.inf)
            nearest.append(distances.min(dim=1).values)
        self.threshold = float(torch.cat(nearest).quantile(QUANTILE))

    def share(self, features: Tensor) -> float:
        """Of pictures f32[N, D]: those nearer to some training picture than the threshold."""
        near = [self._distances(part).min(dim=1).values < self.threshold for part in features.split(ROWS)]
        return float(torch.cat(near).float().mean())

    def _distances(self, features: Tensor) -> Tensor:
        """Euclidean distances f32[N, T] of unit vectors."""
        return (2 - 2 * F.normalize(features, dim=1) @ self.training.T).clamp_min(0).sqrt()
