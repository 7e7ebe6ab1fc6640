"""The invisible mark in pictures: `embedded` writes 16 bits into one, `read_mark` finds them (docs/watermark.md)."""

from __future__ import annotations

from runtime.watermark.embed import embedded
from runtime.watermark.identity import code_of
from runtime.watermark.read import THRESHOLD, Reading, read_mark

LEAST_SIDE = 512  # pixels of the shorter side from which pictures are marked unless somebody says no

__all__ = ["LEAST_SIDE", "THRESHOLD", "Reading", "code_of", "embedded", "read_mark"]
