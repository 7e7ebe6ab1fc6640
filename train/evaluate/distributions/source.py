"""Data that can be sampled for a prompt, as the figures need it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.variation import Variation

Words = Mapping[str, str]  # property -> word of one picture


@dataclass(frozen=True)
class Asked:
    """A prompt, how much it says, and what it says."""

    prompt: str
    depth: str  # "coarse", "thing" or "properties"
    stated: Mapping[str, frozenset[str]]  # property -> the words that fit it


@dataclass(frozen=True)
class Drawn:
    """Pictures of the data."""

    pictures: np.ndarray  # u8[N, side, side, 3]
    words: Sequence[Words]  # all that each one shows
    prompts: Sequence[str]  # a caption of each; of samples, the prompt with what it left open
    scenes: Sequence[Hashable]  # equal where two pictures are equal by what they show


class Source(Protocol):
    """The data behind the figures. What it draws is the same for the same arguments."""

    table: Variation

    def questions(self, count: int, seed: int) -> list[Asked]:
        """`count` different prompts of the three depths."""

    def asked(self, prompt: str) -> Asked:
        """A prompt of the user's. Raises UserError where the data have nothing for it."""

    def sample(self, asked: Asked, seeds: Sequence[int], trained: bool = False) -> Drawn:
        """A picture per seed of what the data hold for a prompt; trained: only such as are trained on.

        Raises UserError where the data hold too little.
        """

    def training(self, count: int, seed: int) -> Drawn:
        """Random training pictures."""

    def held_out(self, count: int, seed: int) -> Drawn:
        """Pictures of combinations that no training picture shows; their prompts leave nothing open."""
