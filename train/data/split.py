"""Splits a user's pictures into training and held-out ones, neither side empty."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runtime.decoding import BadPicture
from runtime.errors import UserError
from train.data.folder import FolderPicture
from train.data.writer import CHECKED, Drawable, is_held_out

SHARE = 0.1  # held out where neither the user nor the folder says
LEAST_CAPTIONS = 8  # on either side; with fewer of them, pictures are held out one by one
MOST_OFF = 2.0  # how far whole captions may miss the requested share, as a factor

S = TypeVar("S", bound=Drawable)


@dataclass(frozen=True)
class Split:
    """Sources by split ("train", "held_out"), and in words how they were split."""

    members: Mapping[str, Sequence[Drawable]]
    how: str


def split_folder(sources: Sequence[FolderPicture], fraction: float | None) -> Split:
    """As `split_pictures`; without a fraction as the folder's own train/ and test/ (or validation/) say."""
    if fraction is not None:
        return split_pictures(sources, fraction)
    held_out = [source for source in sources if source.split == "held_out"]
    if not held_out or not any(source.split == "train" for source in sources):
        return split_pictures(sources, SHARE)
    train = [source for source in sources if source.split != "held_out"]
    return Split({"train": train, "held_out": held_out}, "by the folder's own train and test")


def split_pictures(sources: Sequence[S], fraction: float) -> Split:
    """Hold out about `fraction` of the pictures; which ones is a function of their names and captions.

    Whole captions where there are enough of them, so that the held-out figures are of captions never trained on; else
    single pictures, at least one on each side where two can be read. Raises UserError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:  # false for NaN, too
        raise UserError(f"--held-out {fraction:g}: must be a share of the pictures, at least 0 and below 1")
    if fraction == 0 or len(sources) < 2:
        return Split({"train": sources}, "nothing held out")
    captions = {source.record.unit for source in sources}
    chosen = {caption for caption in captions if is_held_out(caption, fraction)}
    held_out = [source for source in sources if source.record.unit in chosen]
    off = len(held_out) / (fraction * len(sources))
    if min(len(chosen), len(captions) - len(chosen)) >= LEAST_CAPTIONS and 1 / MOST_OFF <= off <= MOST_OFF:
        how = f"by caption ({len(chosen)} of {len(captions)} captions are held out)"
    else:
        held_out = _single(sources, fraction)
        how = f"by picture ({len(captions)} captions are too few, or too uneven, to hold out whole ones)"
    kept = {source.record.key for source in held_out}
    train = [source for source in sources if source.record.key not in kept]
    return Split({"train": train, "held_out": held_out} if held_out else {"train": train}, how)


def _single(sources: Sequence[S], fraction: float) -> list[S]:
    """The readable pictures with the lowest hashes, in the order of the sources; at least one is left."""
    wanted = min(len(sources) - 1, max(1, round(fraction * len(sources))))
    order = sorted(sources, key=lambda source: hashlib.sha256(source.record.key.encode()).digest())
    chosen: set[str] = set()
    for source in order:
        if len(chosen) < wanted and _readable(source):
            chosen.add(source.record.key)
    if chosen and not any(source.record.key not in chosen and _readable(source) for source in order):
        chosen.pop()  # the only picture that can be read is trained on
    return [source for source in sources if source.record.key in chosen]


def _readable(source: Drawable) -> bool:
    try:
        source.draw(CHECKED)
    except BadPicture:
        return False
    return True
