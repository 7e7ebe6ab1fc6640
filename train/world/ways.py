"""How often a caption says all of a picture, a part of it, or only what it is in general."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UserError


@dataclass(frozen=True)
class Ways:
    """Shares of the captions; the rest say everything, as the runtime completes a prompt.

    general: do not name the thing itself, or nothing at all ("an animal, 3d style"); partial: leave some words out.
    Raises UserError unless both are shares that leave room for each other.
    """

    general: float = 0.15
    partial: float = 0.35

    def __post_init__(self) -> None:
        if min(self.general, self.partial) < 0 or not self.general + self.partial <= 1:
            raise UserError(f"general={self.general} and partial={self.partial}: must be shares of at most 1 together")


WAYS = Ways()
