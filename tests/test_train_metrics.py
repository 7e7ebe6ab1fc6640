"""Quality figures on feature sets with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from train.evaluate.metrics import (
    Lite0,
    frechet_distance,
    kernel_distance,
    mean_distance,
    precision_recall,
    score_pictures,
    vendi_score,
)

torch.set_num_threads(1)  # toy tensors: with more, threads mostly wait for one another
WIDTH = 1280


def features(count: int, shift: float = 0.0, seed: int = 0, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_frechet_distance_of_a_shift_is_its_squared_length() -> None:
    real = features(64)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(real, real + 0.5) == pytest.approx(WIDTH * 0.25, rel=1e-5)


@pytest.mark.parametrize(("reals", "fakes"), [(20, 30), (200, 30), (200, 300)])
def test_frechet_distance_is_torchmetrics_with_fewer_and_with_more_pictures_than_features(
    reals: int, fakes: int
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Same(nn.Module):
        num_features = 48

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given

    mixing = features(48, width=48, seed=5)
    real, fake = features(reals, width=48).double(), (features(fakes, 0.3, 1, 48) @ mixing).double()
    metric = FrechetInceptionDistance(feature=Same())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    # torchmetrics takes roots of eigenvalues that should be 0, which costs it half of its digits
    assert frechet_distance(real, fake) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_kernel_distance_grows_with_the_shift() -> None:
    real = features(120)
    near, far = (kernel_distance(real, features(120, shift, seed=1)) for shift in (0.0, 0.5))
    assert abs(near) < far / 10


@pytest.mark.parametrize("count", [20, 120])  # one subset with all of them, and fifty
def test_kernel_distance_leaves_the_callers_random_state_alone(count: int) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = kernel_distance(features(count), features(count, seed=1))
    assert torch.equal(torch.rand(2), expected)
    assert kernel_distance(features(count), features(count, seed=1)) == first


def test_precision_and_recall_see_what_is_missing() -> None:
    real = torch.cat([features(40), features(40, 50.0, seed=1)])
    one_mode = features(80, seed=2)
    precision, recall = precision_recall(real, real[:40])
    assert precision == 1.0 and recall == pytest.approx(0.5)
    assert precision_recall(one_mode, one_mode + 500)[0] == 0.0


def test_vendi_counts_different_pictures() -> None:
    assert vendi_score(torch.ones(8, 16)) == pytest.approx(1)
    assert vendi_score(torch.eye(8)) == pytest.approx(8)
    assert vendi_score(torch.eye(4).repeat(2, 1)) == pytest.approx(4)


def test_mean_distance_is_over_pairs_of_different_pictures() -> None:
    assert mean_distance(torch.ones(8, 16)) == pytest.approx(0, abs=1e-9)
    assert mean_distance(torch.eye(8)) == pytest.approx(1)
    assert mean_distance(torch.eye(2).repeat(2, 1)) == pytest.approx(4 / 6)  # of six pairs, two are alike


def test_lite0_features_have_the_published_width_and_tell_pictures_apart() -> None:
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    pictures[1, 16:48, 16:48] = (255, 0, 0)
    network = Lite0()
    found = network.of(pictures)
    assert found.shape == (2, WIDTH)
    assert (found[0] - found[1]).abs().max() > 0.01
    scores = score_pictures(found, pictures, network)
    assert scores.keys() == {"fd_lite0", "kid_lite0", "precision", "recall"}
    assert scores["fd_lite0"] == pytest.approx(0, abs=1e-6) and scores["precision"] == 1.0
