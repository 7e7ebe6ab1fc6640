"""A large checkpoint's weights out of memory while an export's own engine needs the room."""

from __future__ import annotations

import torch

from export.heap import give_back_memory
from export.source import Source, load


def park(source: Source) -> None:
    """Drop the weights of text encoders and U-Net, whose files have them, until `restore`; the autoencoder is small."""
    for part in parts_of(source):
        for weight in getattr(source.pipe, part).parameters():
            weight.data = torch.empty(0)
    give_back_memory()


def restore(source: Source) -> None:
    """Read the weights again where `park` dropped them."""
    if not is_parked(source):
        return
    read = load(source.folder, source.variant)
    for part in parts_of(source):
        pairs = zip(getattr(source.pipe, part).parameters(), getattr(read, part).parameters(), strict=True)
        for weight, stored in pairs:
            weight.data = stored.data


def is_parked(source: Source) -> bool:
    """Whether the weights are not in memory."""
    return bool(next(iter(source.pipe.unet.parameters())).numel() == 0)


def parts_of(source: Source) -> tuple[str, ...]:
    """The networks whose weights leave."""
    return (*source.kind.encoders, "unet")
