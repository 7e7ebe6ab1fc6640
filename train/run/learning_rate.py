"""Learning-rate schedule shared by every stage."""

from __future__ import annotations

import math


def learning_rate(step: int, peak: float, total: int, warmup: int, decay_from: float) -> float:
    """Linear warm-up, constant, then a half cosine to zero over the last (1 - decay_from) of the run."""
    start = decay_from * total
    if step < start or total <= start:
        return peak * min(1.0, (step + 1) / max(1, warmup))
    fall = 0.5 + 0.5 * math.cos(math.pi * (step - start) / (total - start))
    return peak * min(1.0, (step + 1) / max(1, warmup)) * fall
