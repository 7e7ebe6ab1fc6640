"""The learning-rate schedule, the same for everything that is trained."""

from __future__ import annotations

import math

import torch


def learning_rate(step: int, peak: float, total: int, warmup: int, decay_from: float) -> float:
    """Linear warm-up, constant, then a half cosine to zero over the last (1 - decay_from) of the run."""
    start = decay_from * total
    if step < start or total <= start:
        return peak * min(1.0, (step + 1) / max(1, warmup))
    fall = 0.5 + 0.5 * math.cos(math.pi * (step - start) / (total - start))
    return peak * min(1.0, (step + 1) / max(1, warmup)) * fall


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of an optimizer's next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate
