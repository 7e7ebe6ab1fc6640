"""Exponential moving average of a network's trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """`weights`: name -> average of each trained weight of a network, sharded as the network is.

    decay: reached gradually, min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not held back by
    its first weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.weights = {name: p.detach().clone() for name, p in trained(network).items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards the network's weights; `updates` counts from 1."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        current = [p.detach() for p in trained(network).values()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network computes with the averaged weights inside the block; no second copy of it is needed."""
        self._swap(network)
        training = network.training
        network.eval()
        try:
            yield
        finally:
            network.train(training)
            self._swap(network)

    @torch.no_grad()
    def _swap(self, network: nn.Module) -> None:
        for name, parameter in trained(network).items():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    @torch.no_grad()
    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        for name, value in self.weights.items():
            value.copy_(weights[name])

    @torch.no_grad()
    def distance(self, network: nn.Module) -> Tensor:
        """||weights - average|| / ||average||: how far the network has run ahead."""
        current = [p.detach() for p in trained(network).values()]
        ahead = torch._foreach_norm(torch._foreach_sub(current, list(self.weights.values())))
        whole = torch._foreach_norm(list(self.weights.values()))
        return torch.stack(ahead).norm() / torch.stack(whole).norm().clamp_min(1e-12)


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that a training changes, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
