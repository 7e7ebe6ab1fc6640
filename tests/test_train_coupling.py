"""train.coupling: noise that says which of the pictures with one caption is meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.corpus import Corpus
from train.coupling import NoiseCoupling
from train.shards import Record

WEIGHTS = (1.0, 1.0, 2.0, 1.0)
LAST = 999


def corpus() -> Corpus:
    """Three pictures share caption row 1, at places 3, 1, 2 along one direction; the fourth is alone with row 2."""
    latents = torch.zeros(4, 2, 4, 4)
    latents[:, 0, :2] = torch.tensor([3.0, 1.0, 2.0, 9.0]).view(4, 1, 1)
    records = [Record(str(index), ("x",), "", "", "", weight) for index, weight in enumerate(WEIGHTS)]
    return Corpus(records, latents, [[1], [1], [1], [2]], torch.zeros(3, 77, 4), torch.zeros(3, 4))


def moved(coupling: NoiseCoupling, index: list[int], rows: list[int], timestep: int = LAST) -> tuple[torch.Tensor, ...]:
    noise = torch.randn((len(index), 2, 4, 4), generator=torch.Generator().manual_seed(3))
    coupled = coupling.of(np.array(index), torch.tensor(rows))
    return noise, coupled.move(noise, torch.full((len(index),), timestep)), coupled.direction


def quantiles(noise: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Normal(0.0, 1.0).cdf((noise * direction).sum(dim=(1, 2, 3)))


def test_each_picture_has_its_part_of_the_noise_by_its_weight() -> None:
    coupling = NoiseCoupling(corpus())
    parts = []
    for picture in range(3):
        _, noise, direction = moved(coupling, [picture] * 500, [1] * 500)
        found = quantiles(noise, direction)
        parts.append((float(found.min()), float(found.max())))
    ordered = sorted(zip(parts, WEIGHTS[:3], strict=True))
    edges = [0.0, *np.cumsum([weight for _, weight in ordered]) / 4]
    for (part, _), low, high in zip(ordered, edges[:-1], edges[1:], strict=True):
        assert low - 1e-4 <= part[0] < part[1] <= high + 1e-4
        assert part[1] - part[0] > 0.9 * (high - low)
    assert parts[2] == ordered[1][0]  # the middle one of the three


def test_noise_of_pictures_drawn_by_weight_stays_gaussian_and_moves_along_one_direction() -> None:
    coupling = NoiseCoupling(corpus())
    drawn = np.random.default_rng(0).choice(3, size=4000, p=np.array(WEIGHTS[:3]) / 4)
    before, after, direction = moved(coupling, drawn.tolist(), [1] * len(drawn))
    found = quantiles(after, direction).sort().values
    assert float((found - torch.linspace(0, 1, len(found))).abs().max()) < 0.03
    change = (after - before).flatten(1)
    along = (change @ direction.flatten())[:, None] * direction.flatten()
    assert float(along.abs().max()) > 0.5
    assert torch.allclose(change, along, atol=1e-5)


@pytest.mark.parametrize(("picture", "row", "timestep"), [(3, 2, LAST), (0, 1, 749), (0, 0, LAST)])
def test_noise_stays_where_the_picture_is_alone_or_seen_or_without_caption(
    picture: int, row: int, timestep: int
) -> None:
    before, after, _ = moved(NoiseCoupling(corpus()), [picture], [row], timestep)
    assert torch.equal(before, after)


def test_pictures_that_are_all_alike_or_alone_are_no_fault() -> None:
    alike = corpus()
    alike.latents[:] = 1.0
    assert moved(NoiseCoupling(alike), [0, 1], [1, 1])[1].isfinite().all()
    alone = corpus()
    alone.caption_rows = [[0], [1], [2], [3]]
    before, after, _ = moved(NoiseCoupling(alone), [0], [0])
    assert torch.equal(before, after)
