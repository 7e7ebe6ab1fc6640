"""How much of a video can be read, next to what its container announces."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

_SLACK = 2  # frames by which a duration may be off


@dataclass(frozen=True)
class Extent:
    """What was read of a video, and what should have been."""

    frames: int
    seconds: Fraction  # until the end of the last frame
    step: Fraction  # seconds between frames, on average
    packets: int  # compressed frames that were found
    announced: int | None = None  # compressed frames, where the container says so
    announced_s: Fraction | None = None  # else seconds
    fault: str = ""  # the first error
    corrupt: int = 0  # frames that the decoder could only guess in part
    doubt: str = ""  # the first error of a decoder that went on

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        if self.fault or self.corrupt:
            return False
        if self.announced is not None:
            return self.packets >= self.announced
        return self.announced_s is None or self.seconds + _SLACK * self.step >= self.announced_s

    def __str__(self) -> str:
        """How much was read, in words."""
        return self._counted() + (f" ({self.corrupt} of them in part)" if self.corrupt else "")

    def _counted(self) -> str:
        if self.announced is not None:
            return f"{self.frames} of {self.announced} frames"
        if self.announced_s is not None:
            return f"{self.frames} frames, {float(self.seconds):.2f} of {float(self.announced_s):.2f} s,"
        return f"{self.frames} frames"

    @property
    def left_out(self) -> int:
        """Frames that are missing, as far as is known."""
        if self.announced is not None:
            return max(0, self.announced - self.frames)
        missing = (self.announced_s or self.seconds) - self.seconds
        return max(0, round(missing / self.step))
