"""The checkpoint's outputs on the fixed cases in one file, for processes that load an export and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from export.measure import Network, Reference, pictures, psnr_db
from export.source import Floats, Source

ARRAYS = ("ids", "noise", "states", "prediction", "latents", "decoded", "pictures")
STEPS = (1, 4)


@dataclass(frozen=True)
class Schedule:
    """What `export.measure.pictures` asks of a Source."""

    prediction_type: str
    scaling_factor: float
    tables: dict[int, list[tuple[int, float, float]]]

    def steps(self, count: int) -> list[tuple[int, float, float]]:
        """(timestep, alpha, sigma) of each step, noisiest first."""
        return self.tables[count]


def save_reference(reference: Reference, path: Path) -> None:
    """Write the arrays and the noise schedule of a reference as one .npz."""
    source = reference.source
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(reference, name) for name in ARRAYS}
    if reference.four is not None:
        arrays["four"] = reference.four
    if reference.network.vae_encoder is not None:
        arrays["encoded"] = reference.network.vae_encoder(reference.decoded)
    arrays |= {f"steps_{count}": np.array(source.steps(count)) for count in STEPS}
    scalars = {"prediction_type": source.prediction_type, "scaling_factor": source.scaling_factor}
    np.savez(path, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in scalars.items()})


class StoredReference(Reference):
    """A reference read back; `drawn` are the last network's one-step pictures, f32[N,3,H,W] in [0,1]."""

    drawn: Floats

    def __init__(self, path: Path) -> None:
        stored = np.load(path, allow_pickle=False)
        for name in ARRAYS:
            setattr(self, name, stored[name])
        self.four = stored.get("four")
        tables = {n: [(int(t), float(a), float(s)) for t, a, s in stored[f"steps_{n}"]] for n in STEPS}
        schedule = Schedule(str(stored["prediction_type"]), float(stored["scaling_factor"]), tables)
        self.source = cast(Source, schedule)  # of which nothing else is asked
        self.timestep, self.alpha, self.sigma = schedule.steps(1)[0]
        self.network = recalled(stored)

    def pictures_db(self, network: Network) -> list[float]:
        """As in Reference; the pictures are kept."""
        self.drawn = pictures(network, self.source, self.ids, self.noise)
        return [psnr_db(a, b, peak=1.0) for a, b in zip(self.pictures, self.drawn, strict=True)]


def recalled(stored: Any) -> Network:
    """The checkpoint as far as a comparison calls it: its answers."""
    network = Network(lambda _: stored["states"], lambda *_: stored["prediction"], lambda _: stored["decoded"])
    return replace(network, vae_encoder=lambda _: stored["encoded"]) if "encoded" in stored else network
