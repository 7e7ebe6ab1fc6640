"""Compare Frechet distances: are an export's pictures as close to real ones as the checkpoint's?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.checks.gates import MOST_RATIO
from export.checks.measure import Network
from export.checks.reference import pictures, torch_network
from export.parked import restore
from export.source import Source
from runtime.errors import UserError
from runtime.pixels import unit_to_uint8
from train.config import DEMO_SHARD
from train.data.shards import set_of

COUNT = 160  # pictures per side
BATCH = 8
SEED = 30_000

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Distance:
    """FD-Lite0 to real pictures, for the checkpoint's and the export's pictures from the same captions and seeds."""

    checkpoint: float | None
    export: float | None
    status: str  # passed | failed | not run
    why: str = ""
    pictures: int = 0

    @property
    def ratio(self) -> float | None:
        """The export's distance over the checkpoint's; None where they were not measured."""
        return self.export / self.checkpoint if self.export is not None and self.checkpoint else None

    def to_json(self) -> dict[str, Any]:
        """The figures for a manifest."""
        ratio = self.ratio
        return {
            "checkpoint": self.checkpoint and round(self.checkpoint, 2),
            "export": self.export and round(self.export, 2),
            "ratio": ratio and round(ratio, 4),
            "pictures": self.pictures,
            "status": self.status,
            "why": self.why,
        }


def measure_distance(
    source: Source, network: Network, data: Path | None = None, most_ratio: float = MOST_RATIO
) -> Distance:
    """Draw COUNT captions of `data` (WebDataset shards) with both and compare their FD-Lite0 to its pictures.

    Without `data` the pictures are the demo's, if the checkpoint was trained on the set they come from; another
    model's distance to them would mean nothing: it is "not run". Raises UserError when `data` holds no shards.
    """
    if data is None:
        if why := no_pictures_for(source):
            return Distance(None, None, "not run", why)
        data = Path(DEMO_SHARD)
    try:
        ours = drawn(source, network, data)
    except ImportError as error:
        return Distance(None, None, "not run", f"{error.name} is not installed: pip install '.[train]'")
    theirs = reference_distance(source, data)
    passed = ours <= most_ratio * theirs
    why = "" if passed else f"{ours / theirs:.3f} times the checkpoint's, beyond {most_ratio:g}"
    return Distance(theirs, ours, "passed" if passed else "failed", why, len(captions(data)))


def no_pictures_for(source: Source) -> str:
    """Why the demo's pictures do not match this checkpoint's training data; "" where they do."""
    if not Path(DEMO_SHARD).is_dir():
        return "no real pictures here: give some with --data"
    if source.facts()["training"].get("data") != set_of(Path(DEMO_SHARD)):
        return "nothing says that it was trained on pictures like the demo's: give its own with --data"
    return ""


@cache
def reference_distance(source: Source, data: Path) -> float:
    """FD-Lite0 of the checkpoint's own pictures."""
    restore(source)
    return drawn(source, torch_network(source), data)


def drawn(source: Source, network: Network, data: Path) -> float:
    """FD-Lite0 between the real pictures and a network's pictures of their captions."""
    from train.evaluate.metrics import frechet_distance

    features = feature_set()
    made = [batch_of(source, network, captions(data), start) for start in range(0, len(captions(data)), BATCH)]
    return frechet_distance(real_features(data, source.image_size[0]), features.of(np.concatenate(made)))


def batch_of(source: Source, network: Network, texts: tuple[str, ...], start: int) -> Pixels:
    """Pictures u8[B,H,W,3] of the captions from index `start` on."""
    part = list(texts[start : start + BATCH])
    fresh = max(step.draw for step in source.steps(1))
    draws = source.draws([SEED + start + i for i in range(len(part))], fresh)
    return unit_to_uint8(pictures(network, source, source.encode(part), draws).transpose(0, 2, 3, 1))


@cache
def feature_set() -> Any:
    """EfficientNet-Lite0."""
    from train.evaluate.feature_sets import make_feature_set

    return make_feature_set("lite0")


@cache
def captions(data: Path) -> tuple[str, ...]:
    """COUNT captions, evenly spread over the training pictures."""
    from train.data.corpus import load_pictures

    records, _ = load_pictures(data, "train")
    chosen = np.linspace(0, len(records) - 1, min(COUNT, len(records))).astype(int)
    return tuple(records[i].captions[0] for i in chosen)


@cache
def real_features(data: Path, side: int) -> torch.Tensor:
    """Features of all training pictures of `data`, at the generated pictures' size."""
    from train.data.corpus import load_pictures
    from train.evaluate.feature_sets import fit_side

    _, found = load_pictures(data, "train")
    return feature_set().of(fit_side(found, side))  # type: ignore[no-any-return]


def refuse_further(distance: Distance, what: str) -> None:
    """Raise UserError when the export's pictures are further from real ones than the gate allows."""
    if distance.status == "failed":
        raise UserError(
            f"{what}: FD-Lite0 is {distance.why} (checkpoint {distance.checkpoint:.1f}, export {distance.export:.1f}); "
            "nothing was written (a larger --budget-db keeps more layers in float, --max-fd-ratio sets another limit)"
        )
