"""Classifiers of what a picture shows, trained on real pictures: one linear head a property on frozen features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.evaluate.distributions.source import Words

COMPONENTS = 384  # principal components that the heads see
RIDGE = 0.3  # of the components' mean variance, added to the classes' covariance
FEWEST = 3  # real pictures of a word, for a head to know it


@dataclass(frozen=True)
class Head:
    """Linear discriminant of one property: scores = x @ weight + bias."""

    words: tuple[str, ...]
    weight: Tensor  # f32[C, len(words)]
    bias: Tensor  # f32[len(words)]

    def read(self, x: Tensor) -> np.ndarray:
        """i64[N]: the number of the likeliest word for each f32[N, C]."""
        return (x @ self.weight + self.bias).argmax(dim=1).numpy()


class Classifier:
    """Heads for every property that real pictures have, fitted when made; the same for the same pictures.

    layout: f16[N, L], words: of each picture. A word of fewer than FEWEST pictures has no class, a property of fewer
    than two classes no head. All words are taken as equally likely, so that a head has no leaning towards the usual.
    """

    def __init__(self, layout: Tensor, words: Sequence[Words]) -> None:
        x = layout.float()
        self.mean, self.scale = x.mean(dim=0), x.std(dim=0).clamp_min(1e-4)
        x = (x - self.mean) / self.scale
        rank = min(COMPONENTS, len(x) - 1)
        self.axes = _principal_axes(x, rank)
        x = x @ self.axes
        names = dict.fromkeys(name for each in words for name in each)
        heads = {name: _head(x, [each.get(name, "") for each in words]) for name in names}
        self.heads = {name: head for name, head in heads.items() if head is not None}

    def read(self, layout: Tensor) -> dict[str, np.ndarray]:
        """property -> i64[N], the number of the word in `heads[property].words` that each picture shows."""
        x = (layout.float() - self.mean) / self.scale @ self.axes
        return {name: head.read(x) for name, head in self.heads.items()}

    def right(
        self, read: Mapping[str, np.ndarray], wanted: Sequence[Mapping[str, frozenset[str]]]
    ) -> dict[str, tuple[int, int]]:
        """property -> (pictures that show one of the wanted words, pictures of which one was wanted).

        wanted: of each picture, property -> the words that fit. Words that no head knows are not counted.
        """
        found: dict[str, tuple[int, int]] = {}
        for name, head in self.heads.items():
            hits = [
                head.words[read[name][row]] in each[name]
                for row, each in enumerate(wanted)
                if name in each and not each[name].isdisjoint(head.words)
            ]
            if hits:
                found[name] = (sum(hits), len(hits))
        return found


def share_right(counts: Mapping[str, tuple[int, int]]) -> float | None:
    """Over all properties together; None where nothing was wanted."""
    total = sum(asked for _, asked in counts.values())
    return sum(hits for hits, _ in counts.values()) / total if total else None


def _principal_axes(x: Tensor, rank: int) -> Tensor:
    """f32[L, rank] of f32[N, L]: through the smaller of the two Gram matrices."""
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    values, vectors = torch.linalg.eigh(gram.double())
    vectors, values = vectors[:, -rank:], values[-rank:].clamp_min(1e-6)
    if len(x) <= x.shape[1]:
        return (x.T.double() @ (vectors / values.sqrt())).float()
    return vectors.float()


def _head(x: Tensor, labels: Sequence[str]) -> Head | None:
    counts = Counter(labels)
    words = tuple(sorted(word for word, count in counts.items() if word and count >= FEWEST))
    if len(words) < 2:
        return None
    number = {word: index for index, word in enumerate(words)}
    rows = [row for row, label in enumerate(labels) if label in number]
    y = torch.tensor([number[labels[row]] for row in rows])
    x = x[rows].double()
    sums = torch.zeros(len(words), x.shape[1], dtype=torch.float64).index_add_(0, y, x)
    means = sums / torch.bincount(y)[:, None]
    within = x - means[y]
    covariance = within.T @ within / len(x)
    ridge = RIDGE * covariance.diagonal().mean()
    weight = torch.linalg.solve(covariance + ridge * torch.eye(x.shape[1], dtype=torch.float64), means.T)
    bias = -(means.T * weight).sum(dim=0) / 2
    return Head(words, weight.float(), bias.float())
