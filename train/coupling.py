"""Which of the pictures that share a caption a noise leads to: optimal transport along one direction.

"a fox" is the caption of a fox in every style. With noise drawn by itself nothing says which of them is meant, so the
best single step is their mean, a blur. Here the pictures of a caption and the noises are sorted along one direction
and paired in that order, the optimal coupling in one dimension (compare Pooladian et al. 2023, 2304.14772). Every
noise then means one picture, and all noises of a caption together are as Gaussian as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.corpus import Corpus
from train.diffusion import LAST_TIMESTEP

DIRECTION_PICTURES = 1024  # pictures that the direction is computed from, at most


@dataclass
class CoupledNoise:
    """Which noise leads to each picture of a batch.

    quantiles: f32[B, 2], the part of [0, 1] that is its share among the pictures with its caption; alone: all of it.
    direction: f32[C, h, w] of unit length, along which they are sorted.
    """

    quantiles: Tensor
    direction: Tensor

    def move(self, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noise f32[B, C, h, w] moved along the direction so that its quantile there lies in the picture's part.

        Noise of a picture that is alone, and of timesteps i64[B] at which x0 itself is seen, stays what it is.
        """
        normal = torch.distributions.Normal(0.0, 1.0)
        direction, (low, high) = self.direction.to(noise.device), self.quantiles.to(noise.device).unbind(dim=1)
        place = (noise * direction).sum(dim=(1, 2, 3))
        quantile = low + (high - low) * normal.cdf(place)
        moved = normal.icdf(quantile.clamp(1e-6, 1 - 1e-6))
        stays = (high - low >= 1) | (timesteps != LAST_TIMESTEP)
        return noise + torch.where(stays, 0.0, moved - place).view(-1, 1, 1, 1) * direction


class NoiseCoupling:
    """The order of a corpus's pictures within their captions.

    direction: f32[C, h, w] of unit length, in which pictures with one caption differ most.
    """

    def __init__(self, corpus: Corpus) -> None:
        shared = _shared(corpus.caption_rows)
        self.direction = _main_difference(corpus.latents, list(shared.values()))
        weights = np.array([record.weight for record in corpus.records])
        self._intervals: dict[tuple[int, int], tuple[float, float]] = {}
        for row, pictures in shared.items():
            places = (corpus.latents[pictures].float() * self.direction).sum(dim=(1, 2, 3))
            order = [pictures[i] for i in places.argsort(stable=True).tolist()]
            edges = np.concatenate([[0.0], np.cumsum(weights[order])]) / weights[order].sum()
            for picture, low, high in zip(order, edges[:-1], edges[1:], strict=True):
                self._intervals[row, picture] = (float(low), float(high))

    def of(self, index: np.ndarray, rows: Tensor) -> CoupledNoise:
        """The noise of pictures `index` with the captions of text rows i64[B]."""
        pairs = zip(rows.tolist(), index.tolist(), strict=True)
        return CoupledNoise(torch.tensor([self._intervals.get(pair, (0.0, 1.0)) for pair in pairs]), self.direction)


def _shared(caption_rows: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Text row -> its pictures, of the rows that have several."""
    pictures: dict[int, list[int]] = {}
    for picture, rows in enumerate(caption_rows):
        for row in set(rows):
            pictures.setdefault(row, []).append(picture)
    return {row: found for row, found in pictures.items() if len(found) > 1}


def _main_difference(latents: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """First principal direction f32[C, h, w] of the pictures' differences from their group's mean."""
    parts, count = [torch.zeros(1, *latents.shape[1:])], 0
    for group in groups:
        if count >= DIRECTION_PICTURES:
            break
        values = latents[list(group)].float()
        parts.append(values - values.mean(dim=0))
        count += len(group)
    differences = torch.cat(parts).flatten(1)
    if not differences.any():
        return torch.nn.functional.normalize(torch.ones(latents.shape[1:]).flatten(), dim=0).view(latents.shape[1:])
    _, vectors = torch.linalg.eigh(differences @ differences.T)
    direction = torch.nn.functional.normalize(vectors[:, -1] @ differences, dim=0)
    return direction.view(latents.shape[1:])
