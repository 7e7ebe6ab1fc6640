"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """Holds `averaged`, a frozen copy whose weights follow the trained network's.

    decay: reached gradually, min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not held back by
    its first weights.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.averaged: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averaged: list[Tensor] = list(self.averaged.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in network.parameters()], 1 - decay)
