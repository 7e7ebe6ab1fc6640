"""FD and KID on every network, and precision and recall on the first."""

from __future__ import annotations

from torch import Tensor

from train.evaluate.metrics import frechet_distance, kernel_distance, precision_recall


def distances(real: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """Figures of two sets of pictures, as features f32[N, D] by network: fd_NETWORK, kid_NETWORK, precision, recall."""
    found: dict[str, float] = {}
    for name, features in real.items():
        found[f"fd_{name}"] = frechet_distance(features, other[name])
        found[f"kid_{name}"] = kernel_distance(features, other[name])
    first = next(iter(real))
    found["precision"], found["recall"] = precision_recall(real[first], other[first])
    return found
