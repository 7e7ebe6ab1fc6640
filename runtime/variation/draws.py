"""Draws that are the same for the same seed and name, in every language."""

from __future__ import annotations

from collections.abc import Mapping

_LOW = 0xFFFFFFFF


def draw(words: Mapping[str, float], seed: int, name: str) -> str:
    """A word with its frequency: the same for the same seed and name, in every language."""
    total = 0.0
    for frequency in words.values():  # one after the other: `sum` adds more exactly in later Pythons
        total += frequency
    wanted = uniform(seed, name) * total
    reached = 0.0
    for word, frequency in words.items():
        reached += frequency
        if wanted < reached:
            return word
    return next(reversed([word for word, frequency in words.items() if frequency > 0]))


def uniform(seed: int, name: str) -> float:
    """A number in [0, 1) for a seed (0 to 2**64 - 1) and a name.

    Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the key is the
    seed, the counter the name's 64-bit FNV-1a hash; 53 bits of the first two words.
    """
    hashed = fnv1a(name.encode())
    first, second, *_ = philox((hashed & _LOW, hashed >> 32, 0, 0), (seed & _LOW, seed >> 32 & _LOW))
    return ((first << 32 | second) >> 11) * 2.0**-53


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox 4x32-10: four random 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        one, other = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = other >> 32 ^ c1 ^ k0, other & _LOW, one >> 32 ^ c3 ^ k1, one & _LOW
        k0, k1 = k0 + 0x9E3779B9 & _LOW, k1 + 0xBB67AE85 & _LOW
    return c0, c1, c2, c3


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash."""
    hashed = 0xCBF29CE484222325
    for byte in data:
        hashed = (hashed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hashed
