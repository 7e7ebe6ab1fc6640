"""How many different pictures the seeds of one prompt give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from train.evaluate.metrics import vendi_score

SEEDS = 8


def vendi_within(features: Tensor, prompts: int, depths: Sequence[str]) -> dict[str, float]:
    """The mean Vendi score of a prompt's first SEEDS pictures: 1 where they are alike, at most SEEDS.

    features: f32[prompts * n, D], a prompt's pictures in a row. depths: of each prompt; figures are named "vendi", over
    all prompts, and "vendi_DEPTH".
    """
    each = np.array([vendi_score(part[:SEEDS]) for part in features.chunk(prompts)])
    by_depth = {f"vendi_{depth}": float(each[np.array(depths) == depth].mean()) for depth in dict.fromkeys(depths)}
    return {"vendi": float(each.mean())} | by_depth
