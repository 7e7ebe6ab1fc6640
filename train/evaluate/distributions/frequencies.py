"""How far the frequencies of what a prompt leaves open are from the data's: total variation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from train.evaluate.distributions.source import Asked, Words

USUAL = 0.5  # share of a prompt's real pictures that have a property, for it to be open


def open_properties(asked: Asked, samples: Sequence[Words]) -> list[str]:
    """What a prompt leaves open: properties of most of its real pictures in which these differ."""
    names = dict.fromkeys(name for words in samples for name in words)
    found = []
    for name in names:
        words = [sample[name] for sample in samples if name in sample]
        settled = len(asked.stated.get(name, ())) == 1
        if not settled and len(words) >= USUAL * len(samples) and len(set(words)) > 1:
            found.append(name)
    return found


def total_variation(one: np.ndarray, other: np.ndarray) -> float:
    """Half the sum of the differences of two histograms i64[C], each divided by its sum: 0 alike, 1 disjoint."""
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)


def frequency_distances(
    real: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], left_open: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Two distances for each property that some prompt leaves open, from words as they were read.

    real, other: property -> i64[prompts, n], the number of the word read in each picture. left_open: each prompt's open
    properties. Returns (property -> total variation over all of these prompts together, property -> its mean over
    prompts). The second also sees words that a prompt always or never gets, but with n pictures has a high floor.
    """
    together, apart = {}, {}
    for name in real:
        rows = [row for row, names in enumerate(left_open) if name in names]
        if not rows:
            continue
        size = int(max(real[name].max(), other[name].max())) + 1
        counts = [np.array([np.bincount(found[name][row], minlength=size) for row in rows]) for found in (real, other)]
        together[name] = total_variation(counts[0].sum(axis=0), counts[1].sum(axis=0))
        apart[name] = float(np.mean([total_variation(one, two) for one, two in zip(*counts, strict=True)]))
    return together, apart
