"""16 bits and a checksum -> 64 signs, and back from 64 noisy numbers.

The signs are a word of the second-order Reed-Muller code of length 64 (Muller 1954, Reed 1954): 22 bits, any two words
differ in 16 signs or more. The most likely of all 4,194,304 words is found exactly: for each of the 32,768 quadratic
forms, the first-order words are correlated at once by a Hadamard matrix.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
BITS = 16
CHECK_BITS = 6
SIGNS = 64
_VARIABLES = 6
_POLYNOMIAL = 0b1000011  # x^6 + x + 1, primitive: a checksum of 0 for code 0 is prevented by _START
_START = 0b101101


def checksum(code: int) -> int:
    """The 6 bits that go with a code of 16: the remainder of a cyclic redundancy check."""
    rest = (code << CHECK_BITS) ^ (_START << BITS)
    for bit in range(BITS + CHECK_BITS - 1, CHECK_BITS - 1, -1):
        if rest >> bit & 1:
            rest ^= _POLYNOMIAL << (bit - CHECK_BITS)
    return rest


def signs_of(code: int) -> F32:
    """f32[64] of -1 and 1: the word of a code, 0 to 65535. Raises ValueError on another."""
    if not 0 <= code < 1 << BITS:
        raise ValueError(f"a watermark holds {BITS} bits: 0 to {(1 << BITS) - 1}, not {code}")
    word = code << CHECK_BITS | checksum(code)
    linear, quadratic = word & 0x7F, word >> (_VARIABLES + 1)
    signs: F32 = _quadratic()[quadratic] * _linear()[:, linear & 0x3F]
    return -signs if linear >> _VARIABLES else signs


def most_likely(numbers: F32) -> tuple[int, float]:
    """The code whose word agrees most with f32[64], and the agreement: the sum of numbers times signs.

    The code is -1 where the best word's checksum is wrong.
    """
    agreement = (_quadratic() * numbers.astype(np.float32)) @ _linear()
    best = int(np.abs(agreement).argmax())
    quadratic, linear = divmod(best, SIGNS)
    found = float(agreement.flat[best])
    word = quadratic << (_VARIABLES + 1) | (found < 0) << _VARIABLES | linear
    code, check = word >> CHECK_BITS, word & ((1 << CHECK_BITS) - 1)
    return (code if checksum(code) == check else -1), abs(found)


@cache
def _points() -> npt.NDArray[np.int64]:
    """The 64 points of the binary cube: i64[64, 6] of 0 and 1."""
    return np.arange(SIGNS)[:, None] >> np.arange(_VARIABLES) & 1


@cache
def _linear() -> F32:
    """f32[64 points, 64 linear forms] of -1 and 1: the Hadamard matrix."""
    odd = _points() @ _points().T & 1
    return (1 - 2 * odd).astype(np.float32)


@cache
def _quadratic() -> F32:
    """f32[32768 quadratic forms, 64 points] of -1 and 1."""
    products = np.stack([_points()[:, a] & _points()[:, b] for a, b in combinations(range(_VARIABLES), 2)])
    forms = (np.arange(1 << len(products))[:, None] >> np.arange(len(products)) & 1).astype(np.float32)
    odd = (forms @ products.astype(np.float32)).astype(np.int32) & 1
    return (1 - 2 * odd).astype(np.float32)
