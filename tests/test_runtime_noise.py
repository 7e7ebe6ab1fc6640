"""randn against torch.randn, value by value."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.noise import SEED_MAX, SEED_MIN, mt19937, randn

ULPS = 1 if platform.machine() in ("x86_64", "AMD64") else 2**16  # elsewhere torch calls the C library


def reference(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()


def assert_same(seed: int, shape: tuple[int, ...]) -> None:
    expected, found = reference(seed, shape), randn(seed, shape)
    assert found.shape == expected.shape and found.dtype == np.float32
    far = np.abs(found - expected) / np.spacing(np.maximum(np.abs(expected), np.float32(1e-30)))
    assert far.max(initial=0) <= ULPS, (seed, shape)


@given(st.integers(SEED_MIN, SEED_MAX))
@settings(max_examples=60, deadline=None)
def test_every_seed(seed: int) -> None:
    assert_same(seed, (16, 16, 16))


@given(st.integers(0, 3000), st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_every_size(size: int, seed: int) -> None:
    assert_same(seed, (size,))


@pytest.mark.parametrize("size", range(70))
def test_sizes_around_the_blocks(size: int) -> None:
    assert_same(size * 7919, (size,))


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (2, 3, 5), (4, 64, 64), (1, 4, 17, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert_same(3, shape)


def test_many_values_of_one_seed() -> None:
    assert_same(11, (1_000_003,))


@pytest.mark.parametrize("seed", [SEED_MIN - 1, SEED_MAX + 1])
def test_seeds_beyond_torchs_range_are_refused_as_torch_does(seed: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        randn(seed, (4,))
    with pytest.raises(ValueError, match="Overflow"):
        torch.Generator("cpu").manual_seed(seed)


@pytest.mark.parametrize("seed", [1.0, "7", True, None])
def test_seeds_that_are_no_integers_are_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="integer"):
        randn(seed, (4,))  # type: ignore[arg-type]


def test_numpys_integers_are_seeds() -> None:
    assert (randn(np.int64(7), (16,)) == randn(7, (16,))).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 227, 623, 624, 625, 1300])
def test_the_twister_is_numpys(count: int) -> None:
    expected = np.random.RandomState(5489).randint(0, 2**32, size=count, dtype=np.uint32)
    assert (mt19937(5489, count) == expected).all()


def test_the_published_first_output() -> None:
    assert mt19937(5489, 10000)[[0, 9999]].tolist() == [3499211612, 4123659995]
