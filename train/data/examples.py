"""What every data source provides: examples for update after update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor


@dataclass
class Examples:
    """This process's rows of one update, on the encoders' device."""

    keys: list[str]  # which pictures
    latents: Tensor  # f32[n, C, h, w], scaled as the U-Net expects
    text: Tensor  # f32[n, 77, D], last hidden states
    pooled: Tensor  # f32[n, D], the text encoder's state at the first end-of-text token
    captions: list[str]  # what `text` was made of; "" where the caption was dropped
    ids: Tensor | None = None  # i32[n, 77], the captions' tokens, where the source has them


class DataSource(Protocol):
    """Endless captioned pictures with a position that can be saved and restored."""

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    def no_text(self) -> Tensor:
        """f32[77, D], the empty caption."""

    @property
    def no_text_pooled(self) -> Tensor:
        """f32[D]."""

    @property
    def variation(self) -> dict[str, Any] | None:
        """The table of what a prompt leaves open, as JSON (runtime.variation); None where the data have none."""

    def take(self, total: int, rows: slice, rng: np.random.Generator, drop_text: float) -> Examples:
        """Rows `rows` of an update of `total` pictures over all processes; every process passes an equal rng."""

    def state(self) -> dict[str, Any]:
        """This process's exact position, JSON-ready."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""

    def close(self) -> None:
        """Stop the work in the background."""
