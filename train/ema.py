"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Holds `averaged`, a frozen copy whose weights follow the trained network's.

    decay: reached gradually, min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not held back by
    its first weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averaged = list(self.averaged.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in network.parameters()], 1 - decay)
