"""A U-Net for one timestep only: the embedding and each block's projection of it become constants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NORM_KINDS = ("default", "scale_shift")


class Constant(nn.Module):
    """Returns one stored tensor, whatever its input."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self, *_: Any) -> Tensor:
        return self.value


@contextmanager
def folded_timestep(unet: Any, timestep: float) -> Iterator[None]:
    """Within the block the U-Net computes the output for `timestep`, whatever timestep it is given.

    Where only time is embedded, each block's projection of it is a constant too.
    """
    kept: list[tuple[Any, str, nn.Module]] = []

    def swap(parent: Any, name: str, value: Tensor) -> None:
        kept.append((parent, name, getattr(parent, name)))
        setattr(parent, name, Constant(value))

    try:
        with torch.no_grad():
            embedding = unet.time_embedding(unet.time_proj(torch.tensor([timestep])))
            for block in projecting(unet) if only_time(unet) else ():
                swap(block, "time_emb_proj", block.time_emb_proj(block.nonlinearity(embedding)))
            swap(unet, "time_embedding", embedding)
        yield
    finally:
        for parent, name, module in kept:
            setattr(parent, name, module)


def only_time(unet: Any) -> bool:
    """Whether the embedding that the blocks get depends on the timestep alone."""
    return getattr(unet, "add_embedding", None) is None and getattr(unet, "class_embedding", None) is None


def projecting(unet: Any) -> Iterator[Any]:
    """The residual blocks that project the activated embedding."""
    for module in unet.modules():
        norm = getattr(module, "time_embedding_norm", None)
        if norm in NORM_KINDS and getattr(module, "time_emb_proj", None) is not None and not module.skip_time_act:
            yield module
