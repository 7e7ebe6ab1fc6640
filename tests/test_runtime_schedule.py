"""Schedule arithmetic against diffusers, and its self-consistency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import schedule

CONFIGS = [
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "scaled_linear", "num_train_timesteps": 250},
    {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": True,
    },
    {"trained_betas": list(np.linspace(1e-4, 0.02, 50))},
    {},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_levels_are_diffusers(config: dict[str, object]) -> None:
    alpha, sigma = schedule.from_scheduler_config(config)
    bars = DDIMScheduler.from_config(config).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(alpha, np.sqrt(bars), atol=2e-6)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-12)


def test_the_defaults_are_the_projects() -> None:
    alpha, sigma = schedule.alphas_sigmas()
    assert alpha.shape == (1000,) and alpha[999] == pytest.approx(0.0682649, abs=1e-6)
    assert (np.diff(alpha) < 0).all() and (np.diff(sigma) > 0).all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="beta_schedule 'sigmoid'"):
        schedule.alphas_sigmas(beta_schedule="sigmoid")
    with pytest.raises(ValueError, match="prediction_type 'flow'"):
        schedule.ddim_weights("flow", (0.6, 0.8))


@pytest.mark.parametrize("n", range(1, 61))
def test_timesteps_are_diffusers(n: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    assert schedule.trailing_timesteps(n) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_impossible_step_counts_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        schedule.trailing_timesteps(n)


def stepped(
    x: np.ndarray, output: np.ndarray, kind: str, level: tuple[float, float], after: tuple[float, float] = (1.0, 0.0)
) -> np.ndarray:
    """One DDIM step."""
    of_latents, of_output = schedule.ddim_weights(kind, level, after)
    return schedule.weighted_sum([(of_latents, x), (of_output, output)])


@given(st.floats(0.01, 0.99), st.lists(st.floats(-4, 4), min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_predictions_give_back_what_was_noised(alpha: float, values: list[float]) -> None:
    sigma = float(np.sqrt(1 - alpha**2))
    x0, eps = np.array(values), np.array(values[::-1]) / 2
    x = schedule.add_noise(x0, eps, alpha, sigma)
    v = schedule.v_target(x0, eps, alpha, sigma)
    for kind, output in (("v_prediction", v), ("epsilon", eps)):
        found = schedule.x0_and_eps(x, output, kind, alpha, sigma)
        np.testing.assert_allclose(found, (x0, eps), atol=1e-9)
        assert np.allclose(stepped(x, output, kind, (alpha, sigma)), x0)
        onward = stepped(x, output, kind, (alpha, sigma), (0.8, 0.6))
        np.testing.assert_allclose(onward, 0.8 * x0 + 0.6 * eps, atol=1e-9)


def test_torch_tensors_are_taken_with_levels_of_their_own_shape() -> None:
    x, v = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    alpha = torch.tensor([0.6, 0.8]).reshape(2, 1, 1, 1)
    x0 = schedule.x0_from_v(x, v, alpha, (1 - alpha**2).sqrt())
    x0.sum().backward()
    assert v.grad is not None and torch.allclose(x0[0], torch.tensor(0.2)) and torch.allclose(x0[1], torch.tensor(0.5))


def test_float32_stays_float32() -> None:
    x = np.ones(3, np.float32)
    assert stepped(x, x, "v_prediction", (0.6, 0.8), (0.8, 0.6)).dtype == np.float32


def test_v_comes_back_from_the_noise_in_it() -> None:
    x, v = np.linspace(-2, 2, 5), np.linspace(1, -1, 5)
    eps = schedule.eps_from_v(x, v, 0.6, 0.8)
    np.testing.assert_allclose(schedule.v_from_eps(x, eps, 0.6, 0.8), v, atol=1e-12)
