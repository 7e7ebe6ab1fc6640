"""Two frozen networks in one pass over the pictures: pooled features for distances, and a layout for reading words.

The pictures are taken as they are, not enlarged to 224 pixels: a quarter of the cost, which 2,000 pictures of each of
several sets need. Figures compare with those of the same size alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.add.feature_networks import MobileNetTaps
from train.data.cache import read_tensors, write_tensors
from train.evaluate.feature_sets import Lite0, features_path
from train.progress import progress

NAMES = ("lite0", "mobilenet_v2")  # the second is what a discriminator usually reads
CELLS, PIXELS = 4, 8  # the layout's rows and columns, of features and of the picture itself
BATCH = 50


@dataclass(frozen=True)
class Features:
    """Features of N pictures."""

    pooled: dict[str, Tensor]  # network -> f32[N, D]
    layout: Tensor  # f16[N, L]

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, rows: slice) -> Features:
        return Features({name: found[rows] for name, found in self.pooled.items()}, self.layout[rows])


def joined(parts: Sequence[Features]) -> Features:
    """The pictures of all parts."""
    pooled = {name: torch.cat([part.pooled[name] for part in parts]) for name in parts[0].pooled}
    return Features(pooled, torch.cat([part.layout for part in parts]))


class Networks(nn.Module):
    """EfficientNet-Lite0, which no critic and no loss has seen, and MobileNetV2, the usual critic's own network."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.lite0 = Lite0(device).network
        self.mobilenet = MobileNetTaps()
        self.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Features:
        """Features of u8[B, 3, H, W]."""
        values = pictures.float()
        taps = self.mobilenet.trunk((values / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        deep = self.lite0.extract_features((values - 127) / 128).mean(dim=(2, 3))
        cells = [F.adaptive_avg_pool2d(values / 255, PIXELS), *(F.adaptive_avg_pool2d(tap, CELLS) for tap in taps)]
        layout = torch.cat([*(cell.flatten(1) for cell in cells), deep], dim=1)
        return Features({"lite0": deep.cpu(), "mobilenet_v2": taps[-1].mean(dim=(2, 3)).cpu()}, layout.half().cpu())

    def of(self, pictures: np.ndarray, title: str) -> Features:
        """Features of u8[N, H, W, 3], kept in the cache folder (if any)."""
        path = features_path(self, "two networks", pictures)
        found = read_tensors(path)
        if found:
            pooled = {name: found[0][name] for name in NAMES}
            return Features(pooled, found[0]["layout"])
        parts = []
        with progress(title, len(pictures)) as advance:
            for start in range(0, len(pictures), BATCH):
                part = torch.from_numpy(np.ascontiguousarray(pictures[start : start + BATCH])).permute(0, 3, 1, 2)
                parts.append(self(part.to(self.device)))
                advance(len(part))
        features = joined(parts)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {**features.pooled, "layout": features.layout}, {})
        return features
