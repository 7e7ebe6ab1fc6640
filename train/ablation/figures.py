"""What a generator of a set with classes is measured by, beside real pictures of the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.ablation.classifier import Classifier
from train.evaluate.metrics import frechet_distance, kernel_distance, precision_recall, vendi_score

EACH = 500  # pictures of a class in a generated set
VARIED = 64  # of them, of a class, whose Vendi score is taken
SUBSETS, SUBSET = 20, 1000  # of KID
NEIGHBOURS = 3
Figures = dict[str, float]
NAMES = ("kid", "fd", "precision", "recall", "vendi", "vendi_pixels", "right", "apart")


@dataclass(frozen=True)
class RealSet:
    """Pictures u8[N, 32, 32, 3] with their classes i64[N]."""

    pictures: np.ndarray
    labels: np.ndarray

    @property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """Pictures and classes."""
        return self.pictures, self.labels

    def of_each(self, count: int, start: int = 0) -> RealSet:
        """Each class's pictures from its `start`th, `count` of them, class after class."""
        chosen = [np.flatnonzero(self.labels == one)[start : start + count] for one in np.unique(self.labels)]
        index = np.concatenate(chosen)
        return RealSet(self.pictures[index], self.labels[index])


class Measure:
    """Figures of sets of pictures beside a reference of real ones.

    Features are scaled so that their mean square over the reference is 1: KID's cubic kernel is made for that.
    kid: of 20 subsets of 1,000, times 1,000. fd: Frechet distance of the classifier's features. precision, recall:
    of 3 neighbours. vendi: of the features of 64 pictures of a class, mean over classes; vendi_pixels: of the pixels
    themselves. right: share whose class the classifier reads. apart: mean difference of two pictures of a class, in
    levels of 255.
    """

    def __init__(self, classifier: Classifier, reference: Tensor) -> None:
        """reference: the classifier's features f32[N, 128] of real pictures."""
        self.classifier = classifier
        self.scale = reference.square().mean().rsqrt()
        self.reference = reference * self.scale

    def of(self, shown: RealSet) -> Figures:
        """The figures of pictures that should be of their labels' classes, as many of each."""
        raw, read = self.classifier.read(shown.pictures)
        features = raw * self.scale
        labels = torch.from_numpy(shown.labels)
        precision, recall = precision_recall(self.reference, features, NEIGHBOURS)
        varied = [np.flatnonzero(shown.labels == one)[:VARIED] for one in np.unique(shown.labels)]
        pixels = torch.from_numpy(shown.pictures[..., 0].reshape(len(shown.pictures), -1)).float()
        return {
            "kid": 1000 * kernel_distance(self.reference, features, SUBSET, SUBSETS),
            "fd": frechet_distance(self.reference, features),
            "precision": precision,
            "recall": recall,
            "vendi": float(np.mean([vendi_score(features[index]) for index in varied])),
            "vendi_pixels": float(np.mean([vendi_score(pixels[index]) for index in varied])),
            "right": float((read == labels).float().mean()),
            "apart": float(np.mean([_apart(pixels[index]) for index in varied])),
        }


def _apart(pixels: Tensor) -> float:
    """Mean over pairs of rows f32[N, P] of their mean absolute difference."""
    count = len(pixels)
    total = torch.cdist(pixels, pixels, p=1).sum() / pixels.shape[1]
    return float(total / (count * (count - 1)))


def spread(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean, least and most of each figure over some runs."""
    found = {name: [run[name] for run in runs] for name in NAMES}
    ends = {name: {"mean": float(np.mean(v)), "min": min(v), "max": max(v)} for name, v in found.items()}
    return {"seeds": len(runs), **ends}


def table(results: Mapping[str, Mapping[str, Any]], real: str) -> str:
    """A Markdown table; Vendi beside the row `real`'s."""
    heads = (
        "",
        "seeds",
        "KID x 1000",
        "FD",
        "precision",
        "recall",
        "Vendi",
        "of real's",
        "Vendi of pixels",
        "of real's",
    )
    lines = ["| " + " | ".join([*heads, "class right", "seeds apart (of 255)"]) + " |", "| --- " * 12 + "|"]
    for name, one in results.items():
        shares = [one[v]["mean"] / results[real][v]["mean"] for v in ("vendi", "vendi_pixels")]
        cells = [
            name,
            str(one["seeds"]),
            _cell(one["kid"], 1),
            _cell(one["fd"], 2),
            f"{one['precision']['mean']:.2f}",
            f"{one['recall']['mean']:.2f}",
            f"{one['vendi']['mean']:.2f}",
            f"{shares[0]:.2f}",
            f"{one['vendi_pixels']['mean']:.2f}",
            f"{shares[1]:.2f}",
            f"{one['right']['mean']:.3f}",
            f"{one['apart']['mean']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(one: Mapping[str, float], digits: int) -> str:
    mean, least, most = (f"{one[key]:.{digits}f}" for key in ("mean", "min", "max"))
    return mean if least == most else f"{mean} ({least} to {most})"
