"""Exponential moving average of a network's trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from train.run.engine import fill


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

    def load_state_dict(self, weights: dict[str, Tensor], /) -> None:
        """Raises KeyError or ValueError when the weights are another network's."""
        _fill_all(self.weights, weights)

    @torch.no_grad()
    def distance(self, network: nn.Module) -> Tensor:
        """||weights - average|| / ||average||: how far the network has run ahead."""
        current = [p.detach() for p in trained(network).values()]
        ahead = torch._foreach_norm(torch._foreach_sub(current, list(self.weights.values())))
        whole = torch._foreach_norm(list(self.weights.values()))
        return torch.stack(ahead).norm() / torch.stack(whole).norm().clamp_min(1e-12)


class TrainedWeights:
    """What training changes in a network, as a checkpoint holds it: only the adapters of an adapted network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in trained(self.network).items()}

    def load_state_dict(self, weights: dict[str, Tensor], /) -> None:
        """Raises KeyError or ValueError when the weights are another network's."""
        _fill_all(self.state_dict(), weights)


def _fill_all(targets: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copy whole tensors into targets of the same names and shapes, which may be sharded."""
    if targets.keys() != values.keys():
        raise KeyError(f"weights {sorted(targets.keys() ^ values.keys())[:3]} are in only one of the two networks")
    for name, target in targets.items():
        if target.shape != values[name].shape:
            raise ValueError(f"{name} is {tuple(values[name].shape)}, not {tuple(target.shape)}")
        fill(target, values[name])


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that a training changes, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
