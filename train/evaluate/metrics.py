"""Quality figures on pooled features: FD, KID, precision, recall, Vendi, distance within a prompt.

The features come from a network other than the discriminator's, which would flatter its own student. Figures are
comparable among themselves only: with Lite0 features they are not FID.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.evaluate.feature_sets import FeatureSet, Lite0

__all__ = [
    "Lite0",
    "frechet_distance",
    "kernel_distance",
    "mean_distance",
    "precision_recall",
    "score_pictures",
    "vendi_score",
]


def score_pictures(real: Tensor, pictures: np.ndarray, network: FeatureSet) -> dict[str, float]:
    """fd_NAME, kid_NAME, precision and recall of u8[N, H, W, 3] against real pictures' features f32[M, D]."""
    return score_features(real, network.of(pictures), network.name)


def score_features(real: Tensor, fake: Tensor, name: str) -> dict[str, float]:
    """Like `score_pictures`, of features f32[N, D] already computed."""
    precision, recall = precision_recall(real, fake)
    return {
        f"fd_{name}": frechet_distance(real, fake),
        f"kid_{name}": kernel_distance(real, fake),
        "precision": precision,
        "recall": recall,
    }


class _Precomputed(nn.Module):
    """What torchmetrics takes for a feature network when the features are already computed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance between two feature sets f32[N, D], at least two each (Heusel et al. 2017), in f64.

    torchmetrics' figure, exactly, in a hundredth of its time: with covariances A'A and B'B the trace of their
    product's root is the sum of the singular values of AB', so that no D x D eigenproblem is solved.
    """
    (mean_real, a), (mean_fake, b) = _moments(real), _moments(fake)
    root = torch.linalg.svdvals(a @ b.T).sum()
    return float((mean_real - mean_fake).square().sum() + a.square().sum() + b.square().sum() - 2 * root)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """(mean f64[D], A f64[min(N, D), D]) with A'A the covariance."""
    mean = features.double().mean(dim=0)
    centred = (features.double() - mean) / (len(features) - 1) ** 0.5
    return mean, centred if len(centred) <= features.shape[1] else torch.linalg.qr(centred, mode="r").R


def kernel_distance(real: Tensor, fake: Tensor, subset: int = 100, subsets: int = 50) -> float:
    """KID, mean over `subsets` of at most `subset` (Binkowski et al. 2018). The caller's random state is kept."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset, len(real), len(fake))
    subsets = 1 if size == len(real) == len(fake) else subsets  # a subset that is the whole set needs no second one
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that features are kept in memory
        metric = KernelInceptionDistance(feature=_Precomputed(real.shape[1]), subsets=subsets, subset_size=size)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        torch.manual_seed(0)  # the subsets
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


def mean_distance(features: Tensor) -> float:
    """Mean cosine distance between different rows of f32[N, D]: 0 where all are alike, at most 2. N at least 2."""
    unit = F.normalize(features.double(), dim=1)
    count = len(unit)
    return float(1 - ((unit @ unit.T).sum() - count) / (count * (count - 1)))
