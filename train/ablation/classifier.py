"""A small classifier of the set's ten classes, whose features score the students: no critic and no loss saw them.

The penultimate layer of a classifier of the set itself is the usual feature space for MNIST's kin, where Inception's
ImageNet features mean little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runtime.files import whole_file
from train.progress import progress
from train.run.learning_rate import learning_rate, set_rate

WIDTH = 128  # of the penultimate layer
EPOCHS, BATCH, LR, SEED = 3, 128, 2e-3, 0


class Classifier(nn.Module):
    """Pictures f32[N, 1, 32, 32] in [0, 1] -> logits f32[N, classes]; `features` are its penultimate layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_stage(1, 32), *_stage(32, 64), *_stage(64, 128), nn.Flatten(), nn.Linear(128 * 16, WIDTH), nn.ReLU()
        )
        self.last = nn.Linear(WIDTH, classes)

    def features(self, pictures: Tensor) -> Tensor:
        """f32[N, 128], none negative."""
        found: Tensor = self.trunk(pictures)
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.last(F.dropout(self.features(pictures), 0.3, self.training))
        return found

    @torch.no_grad()
    def read(self, pictures: np.ndarray, batch: int = 500) -> tuple[Tensor, Tensor]:
        """(features f32[N, 128], most likely class i64[N]) of u8[N, 32, 32, 3]."""
        self.eval()
        parts = [self.features(gray(pictures[start : start + batch])) for start in range(0, len(pictures), batch)]
        features = torch.cat(parts)
        return features, self.last(features).argmax(1)


def _stage(inputs: int, outputs: int) -> Sequence[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)


def gray(pictures: np.ndarray) -> Tensor:
    """u8[N, H, W, 3] -> f32[N, 1, H, W] in [0, 1], the mean of the three colours."""
    return torch.from_numpy(pictures).float().mean(3).unsqueeze(1) / 255


def trained(path: Path, real: Callable[[], tuple[np.ndarray, np.ndarray]], classes: int) -> Classifier:
    """The classifier of a file; where there is none, it is trained first on what `real` reads.

    real: gives pictures u8[N, 32, 32, 3] and their classes i64[N].
    """
    torch.manual_seed(SEED)
    network = Classifier(classes)
    if not path.is_file():
        _train(network, *real())
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            save_file(network.state_dict(), partial)
    network.load_state_dict(load_file(path))
    return network.eval()


def _train(network: Classifier, pictures: np.ndarray, labels: np.ndarray) -> None:
    optimizer: Any = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    steps, targets, rng = EPOCHS * len(pictures) // BATCH, torch.from_numpy(labels), np.random.default_rng(SEED)
    network.train()
    with progress("classifier", steps) as advance:
        for step in range(steps):
            set_rate(optimizer, learning_rate(step, LR, steps, warmup=50, decay_from=0.0))
            index = rng.integers(len(pictures), size=BATCH)
            x = gray(pictures[index])
            x = torch.where(torch.from_numpy(rng.random(BATCH) < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
            optimizer.zero_grad()
            F.cross_entropy(network(x), targets[index]).backward()
            optimizer.step()
            advance(1)
