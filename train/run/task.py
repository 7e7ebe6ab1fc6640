"""What a run trains: the part in which ADD, teacher, autoencoder and text encoder differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from train.finite import must_be_finite
from train.run.engine import Engine
from train.run.telemetry import Telemetry

Values = dict[str, Tensor]  # measured scalars, on the device


class Stateful(Protocol):
    """A network, or whatever else hands out its tensors and takes them back."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> Any: ...


class Task(ABC):
    """One kind of training, which `train.run.loop.Trainer` takes from step to step.

    name: in the progress bar; unit: what a batch is counted in; go_on: how a run that was stopped is continued.
    weights, optimizers: all that a checkpoint holds besides `position`, by the names of its files. Everything random
    in a step must be drawn from (seed, step): then a resumed run takes the steps of one that never stopped.
    """

    name: str
    unit: str = "pictures"
    go_on: str = "start the same command again"
    weights: Mapping[str, Stateful]
    optimizers: Mapping[str, torch.optim.Optimizer]

    @abstractmethod
    def step(self, step: int) -> Values:
        """Take one update and return what was measured. Raises NotFinite before a bad value reaches a weight."""

    @abstractmethod
    def keep(self, step: int, telemetry: Telemetry) -> float | None:
        """Show what the weights can do, before a checkpoint; returns its score (lower is better), or None."""

    @abstractmethod
    def finish(self, step: int, best: int | None) -> Path:
        """Write the result of a run of `step` steps and return its folder. best: the step with the best score."""

    def measure(self, seconds: float) -> dict[str, float]:
        """More values of a logged step; `seconds` have passed since the last one."""
        return {}

    def check_settings(self, path: Path) -> None:  # noqa: B027  most tasks have nothing to check
        """Raises UserError when a run's checkpoints cannot be continued with these settings. path: its config.json."""

    def position(self) -> dict[str, Any]:
        """This process's position in the data, JSON-ready; {} when (seed, step) determines it."""
        return {}

    def restore(self, position: dict[str, Any]) -> None:  # noqa: B027  nor a position
        """Restore a position that `position` returned."""


def descend(engine: Engine, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> Values:
    """One update down the gradient of a loss, whose norm is clipped. Raises NotFinite and then updates nothing."""
    optimizer.zero_grad()
    loss.backward()
    weights: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    norm = engine.clip_gradients(weights, clip)
    must_be_finite(norm + loss.detach(), "the loss or its gradient")
    optimizer.step()
    return {"loss": loss.detach(), "grad_norm": norm}
