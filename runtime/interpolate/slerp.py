"""From one array to another: in a straight line, or along the sphere, because noise and noised latents lie on one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_PARALLEL = 1e-9  # of a unit vector's part across another: below it there is no direction to turn to


def lerp(a: F32, b: F32, t: float) -> F32:
    """From `a` to `b` (t in [0, 1]) in a straight line, f32."""
    mixed: F32 = np.float32(1 - t) * a + np.float32(t) * b
    return mixed


def slerp(a: F32, b: F32, t: float) -> F32:
    """From `a` to `b` (t in [0, 1]): the direction along the great circle (Shoemake 1985), the norm linearly.

    Any shape, f32. The ends are exact. Between opposite directions, where every great circle is a shortest one, a
    fixed one is taken; a zero has no direction, and the way to it is straight.
    """
    if t in (0, 1):
        return (b if t else a).copy()
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norms = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if 0 in norms:
        return lerp(a, b, t)
    u, v = x / norms[0], y / norms[1]
    angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))  # Kahan: exact near 0 and pi too
    turned = np.cos(t * angle) * u + np.sin(t * angle) * _across(u, v)
    scaled: F32 = (((1 - t) * norms[0] + t * norms[1]) * turned).astype(np.float32).reshape(a.shape)
    return scaled


def _across(u: F64, v: F64) -> F64:
    """The unit vector across `u` in the plane of `u` and `v`; where these are parallel, across `u` anyhow."""
    across: F64 = v - (u @ v) * u
    if np.linalg.norm(across) < _PARALLEL:
        if len(u) == 1:
            return np.zeros(1)
        axis = np.eye(1, len(u), int(np.argmin(np.abs(u))))[0]
        across = axis - (u @ axis) * u
    unit: F64 = across / np.linalg.norm(across)
    return unit
