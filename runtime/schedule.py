"""The one place for schedule maths: alpha_t and sigma_t, x0 and eps, noising, and one step of a sampler.

Variance-preserving: x_t = alpha_t * x0 + sigma_t * eps with alpha_t**2 + sigma_t**2 = 1. The functions of
arrays are plain arithmetic: they take numpy arrays and torch tensors alike, and alpha and sigma as floats
or as arrays that broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Array = Any  # a numpy array or a torch tensor

PREDICTION_TYPES = ("v_prediction", "epsilon")
CLEAN = (1.0, 0.0)  # (alpha, sigma) after the last step: the picture without noise


def alphas_sigmas(
    num_train_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    beta_schedule: str = "scaled_linear",
    rescale_betas_zero_snr: bool = False,
) -> tuple[F64, F64]:
    """(alpha, sigma) at every timestep, f64[num_train_timesteps] each, in 0..1.

    Raises ValueError on a beta_schedule other than linear, scaled_linear, squaredcos_cap_v2.
    Source: diffusers' DDIMScheduler, in double precision.
    """
    return from_betas(betas(num_train_timesteps, beta_start, beta_end, beta_schedule), rescale_betas_zero_snr)


def from_scheduler_config(config: Mapping[str, Any]) -> tuple[F64, F64]:
    """(alpha, sigma), f64[T] each, of a diffusers `scheduler_config.json` (a missing key: its default)."""
    zero_snr = bool(config.get("rescale_betas_zero_snr", False))
    if config.get("trained_betas") is not None:
        return from_betas(np.asarray(config["trained_betas"], np.float64), zero_snr)
    table = betas(
        int(config.get("num_train_timesteps", 1000)),
        float(config.get("beta_start", 0.0001)),
        float(config.get("beta_end", 0.02)),
        str(config.get("beta_schedule", "linear")),
    )
    return from_betas(table, zero_snr)


def betas(count: int, start: float, end: float, beta_schedule: str) -> F64:
    """beta_t, f64[count], of diffusers' named schedules; ValueError on another name."""
    if beta_schedule == "linear":
        return np.linspace(start, end, count)
    if beta_schedule == "scaled_linear":
        return np.square(np.linspace(math.sqrt(start), math.sqrt(end), count))
    if beta_schedule == "squaredcos_cap_v2":
        bars = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        capped: F64 = np.minimum(1 - bars[1:] / bars[:-1], 0.999)
        return capped
    raise ValueError(f"beta_schedule {beta_schedule!r} is unknown: linear, scaled_linear, squaredcos_cap_v2")


def from_betas(table: F64, rescale_betas_zero_snr: bool = False) -> tuple[F64, F64]:
    """(alpha, sigma) from beta_t; with the rescaling of Lin et al. 2023 (algorithm 1) the last alpha is 0."""
    alpha = np.sqrt(np.cumprod(1 - table))
    if rescale_betas_zero_snr:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return alpha, np.sqrt(1 - alpha**2)


def trailing_timesteps(n: int, num_train_timesteps: int = 1000) -> list[int]:
    """The n timesteps of diffusers' `timestep_spacing: trailing`, noisiest first, such as 999, 666, 332.

    Raises ValueError unless 1 <= n <= num_train_timesteps.
    """
    if not 1 <= n <= num_train_timesteps:
        raise ValueError(f"steps must be 1 to {num_train_timesteps}, not {n}")
    spaced = np.round(np.arange(num_train_timesteps, 0, -num_train_timesteps / n)).astype(np.int64) - 1
    return [int(timestep) for timestep in spaced]


def add_noise(x0: Array, eps: Array, alpha: Any, sigma: Any) -> Array:
    """x_t: x0 noised to the level (alpha, sigma)."""
    return alpha * x0 + sigma * eps


def v_target(x0: Array, eps: Array, alpha: Any, sigma: Any) -> Array:
    """The velocity v = alpha * eps - sigma * x0 (Salimans and Ho 2022)."""
    return alpha * eps - sigma * x0


def x0_from_v(x: Array, v: Array, alpha: Any, sigma: Any) -> Array:
    """x0 = alpha * x_t - sigma * v."""
    return alpha * x - sigma * v


def eps_from_v(x: Array, v: Array, alpha: Any, sigma: Any) -> Array:
    """eps = sigma * x_t + alpha * v."""
    return sigma * x + alpha * v


def x0_from_eps(x: Array, eps: Array, alpha: Any, sigma: Any) -> Array:
    """x0 = (x_t - sigma * eps) / alpha; alpha must not be 0."""
    return (x - sigma * eps) / alpha


def x0_and_eps(x: Array, model_output: Array, prediction_type: str, alpha: Any, sigma: Any) -> tuple[Array, Array]:
    """(x0, eps) that the model's output stands for; ValueError on an unknown prediction_type."""
    if prediction_type == "v_prediction":
        return x0_from_v(x, model_output, alpha, sigma), eps_from_v(x, model_output, alpha, sigma)
    if prediction_type == "epsilon":
        return x0_from_eps(x, model_output, alpha, sigma), model_output
    raise ValueError(f"prediction_type {prediction_type!r} is unknown: {', '.join(PREDICTION_TYPES)}")


def ddim_weights(
    prediction_type: str, level: tuple[float, float], next_level: tuple[float, float] = CLEAN
) -> tuple[float, float]:
    """Weights of x and of the model's output in x at `next_level`, each (alpha, sigma): DDIM with eta = 0.

    Song et al. 2021, eq. 12, for x0 and eps as `x0_and_eps` computes them. Raises ValueError on an unknown
    prediction_type.
    """
    (alpha, sigma), (next_alpha, next_sigma) = level, next_level
    if prediction_type == "v_prediction":
        return next_alpha * alpha + next_sigma * sigma, next_sigma * alpha - next_alpha * sigma
    if prediction_type == "epsilon":
        return next_alpha / alpha, next_sigma - next_alpha * sigma / alpha
    raise ValueError(f"prediction_type {prediction_type!r} is unknown: {', '.join(PREDICTION_TYPES)}")


def weighted_sum(terms: Iterable[tuple[float, Array]]) -> Array:
    """The sum of weight * array over the terms whose weight is not 0, in their order; at least one is needed."""
    products = [weight * array for weight, array in terms if weight]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total


def v_from_eps(x: Array, eps: Array, alpha: Any, sigma: Any) -> Array:
    """v = (eps - sigma * x_t) / alpha; alpha must not be 0."""
    return (eps - sigma * x) / alpha
