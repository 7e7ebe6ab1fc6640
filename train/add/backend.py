"""What the method needs from its caller: devices, processes and precision stay outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Backend(Protocol):
    """One process's view of a run. `train.run.engine.Engine` is one.

    device: where this process computes; parts: micro-batches that it accumulates per update.
    """

    device: torch.device
    parts: int

    def micro_rows(self) -> Iterator[slice]:
        """For each of this process's micro-batches, its rows of the whole batch."""
        ...

    def unwrap(self, network: nn.Module) -> Any:
        """The network itself, without the wrapper that exchanges its gradients."""
        ...

    def autocast(self) -> AbstractContextManager[None]:
        """Matrix products inside are computed in the run's precision."""
        ...

    def autocast_features(self) -> AbstractContextManager[None]:
        """The same for the discriminator's features."""
        ...

    def accumulating(self, network: Any, last: bool) -> AbstractContextManager[Any]:
        """Backward passes inside do not exchange gradients, except for the last micro-batch."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to the weights'."""
        ...

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over processes of gradients that no wrapper takes care of."""
        ...

    def clip_gradients(self, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
        """Scale the gradients so that their total norm is at most `limit`; returns the norm before."""
        ...
