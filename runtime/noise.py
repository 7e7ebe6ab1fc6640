"""Seed -> the normals that torch's CPU generator draws: MT19937, then torch's own order of Box-Muller.

torch on an x86-64 processor evaluates the Box-Muller pairs in single precision, with the Cephes
polynomials and fused multiply-adds; so does this file, and the same seed gives the same bits. (On other
processors torch uses the C library's functions and differs from itself in the last bits.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
SEED_MIN, SEED_MAX = -(2**63), 2**64 - 1

_STATE = 624
_SHIFT = 397
_BLOCK = 16  # torch turns uniforms into normals 16 at a time: 8 radii, then 8 angles
_UPPER, _LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
_MATRIX = np.uint32(0x9908B0DF)

_LN2_LOW, _LN2_HIGH = -2.12194440e-4, 0.693359375
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_PI_4 = (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)  # pi / 4 in three parts
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def randn(seed: int, shape: Sequence[int], draw: int = 0) -> F32:
    """`torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))`, f32[shape], to 1 ulp.

    `seed` is any integer that torch takes, -2**63 to 2**64 - 1 (its low 32 bits count); ValueError outside. `draw`:
    how many times the generator gave as much before.
    """
    size = math.prod(shape)
    normals = _normals if size >= _BLOCK else _few_normals
    return normals(check_seed(seed), size, draw).reshape(tuple(shape))


def check_seed(seed: int | np.integer[Any]) -> int:
    """The seed itself; ValueError when it is not an integer from -2**63 to 2**64 - 1 (torch's own range)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ValueError(f"seed must be an integer, not {type(seed).__name__}")
    whole = int(seed)
    if not SEED_MIN <= whole <= SEED_MAX:
        raise ValueError(f"seed {whole} is out of range: -2**63 to 2**64 - 1 is allowed")
    return whole


def mt19937(seed: int, count: int) -> npt.NDArray[np.uint32]:
    """The first `count` outputs, u32, of the Mersenne Twister (Matsumoto and Nishimura 1998)."""
    word = seed & 0xFFFFFFFF
    words = [word]
    for i in range(1, _STATE):
        word = (1812433253 * (word ^ (word >> 30)) + i) & 0xFFFFFFFF
        words.append(word)
    state = np.array(words, np.uint32)
    turns = [np.empty(0, np.uint32)]
    for _ in range(-(-count // _STATE)):
        state = _twist(state)
        turns.append(state)
    return _temper(np.concatenate(turns)[:count])


def _twist(old: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The next 624 words of state, in runs short enough to depend only on words that are ready."""
    new = np.empty_like(old)
    lag = _STATE - _SHIFT
    mixed = _mix(old[:-1], old[1:])
    new[:lag] = old[_SHIFT:] ^ mixed[:lag]
    new[lag : 2 * lag] = new[:lag] ^ mixed[lag : 2 * lag]
    new[2 * lag : -1] = new[lag : _SHIFT - 1] ^ mixed[2 * lag :]
    new[-1:] = new[_SHIFT - 1 : _SHIFT] ^ _mix(old[-1:], new[:1])
    return new


def _mix(high: npt.NDArray[np.uint32], low: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return (((high & _UPPER) | (low & _LOWER)) >> np.uint32(1)) ^ ((low & np.uint32(1)) * _MATRIX)


def _temper(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    words = words ^ (words >> np.uint32(11))
    words = words ^ ((words << np.uint32(7)) & np.uint32(0x9D2C5680))
    words = words ^ ((words << np.uint32(15)) & np.uint32(0xEFC60000))
    return words ^ (words >> np.uint32(18))


def _normals(seed: int, size: int, draw: int) -> F32:
    """torch's path for 16 values and more: whole blocks first; a ragged end gets 16 uniforms of its own."""
    ragged = size % _BLOCK
    taken = size + (_BLOCK if ragged else 0)
    words = mt19937(seed, taken * (draw + 1))[taken * draw :]
    uniforms = (words & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)
    values = np.empty(size, np.float32)
    whole = size - ragged
    values[:whole] = _box_muller(uniforms[:whole])
    if ragged:
        values[-_BLOCK:] = _box_muller(uniforms[size:])
    return values


def _box_muller(uniforms: F32) -> F32:
    """Uniforms [0, 1) -> normals, block by block: uniforms j and j + 8 become normals j and j + 8."""
    blocks = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * _log(np.float32(1) - blocks[:, 0]))
    sine, cosine = _sincos(np.float32(2 * math.pi) * blocks[:, 1])
    return np.stack([radius * cosine, radius * sine], axis=1).ravel()


def _few_normals(seed: int, size: int, draw: int) -> F32:
    """torch's path below 16 values: Box-Muller in double precision, the sine kept for the next value or draw."""
    total = size * (draw + 1)
    words = mt19937(seed, 4 * ((total + 1) // 2)).astype(np.uint64)
    whole = ((words[0::2] << np.uint64(32)) | words[1::2]) & np.uint64(2**53 - 1)
    uniforms = [float(value) * 2**-53 for value in whole]
    values: list[float] = []
    for turn, height in zip(uniforms[0::2], uniforms[1::2], strict=True):
        radius, angle = math.sqrt(-2 * math.log1p(-height)), 2 * math.pi * turn
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(values[total - size : total], np.float32)


def _fma(a: F32, b: F32 | float, c: F32 | float) -> F32:
    """a * b + c rounded once: in double precision the product of two floats is exact."""
    return (a.astype(np.float64) * np.float32(b) + np.float32(c)).astype(np.float32)


def _poly(x: F32, coefficients: Sequence[float]) -> F32:
    """Horner's rule, highest power first."""
    y = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = _fma(y, x, coefficient)
    return y


def _log(x: F32) -> F32:
    """Natural logarithm of floats in (0, 1]. Source: Cephes logf (Moshier)."""
    fraction, exponent = np.frexp(x)
    small = fraction < np.float32(math.sqrt(0.5))
    e = (exponent - small).astype(np.float32)
    m = np.where(small, fraction + fraction, fraction) - np.float32(1)
    z = m * m
    y = _fma(_poly(m, _LOG) * m, z, e * np.float32(_LN2_LOW)) - z * np.float32(0.5)
    return _fma(e, _LN2_HIGH, m + y)


def _sincos(x: F32) -> tuple[F32, F32]:
    """Sine and cosine of floats in [0, 2 pi]. Source: Cephes sinf and cosf (Moshier)."""
    octant = (x * np.float32(4 / math.pi)).astype(np.int32) + 1 & ~1
    y = octant.astype(np.float32)
    for part in _PI_4:
        x = _fma(y, -part, x)
    z = x * x
    cosine = _fma(_poly(z, _COS) * z, z, -(z * np.float32(0.5))) + np.float32(1)
    sine = _fma(_poly(z, _SIN) * z, x, x)
    swapped = (octant & 2) != 0
    sine_sign = np.where(octant & 4, np.float32(-1), np.float32(1))
    cosine_sign = np.where(octant + 2 & 4, np.float32(-1), np.float32(1))
    return np.where(swapped, cosine, sine) * sine_sign, np.where(swapped, sine, cosine) * cosine_sign
