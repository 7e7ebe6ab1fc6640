"""Values that must be numbers: NaN and infinity are caught before they reach a weight."""

from __future__ import annotations

from torch import Tensor


class NotFinite(Exception):
    """A loss or a gradient that is NaN or infinite; no weight was updated."""


def must_be_finite(value: Tensor, what: str) -> None:
    """Raises NotFinite, which names `what`, unless the scalar is a number."""
    if not bool(value.isfinite()):
        raise NotFinite(f"{what} is {float(value)}")
