"""Opens a prepared world as a run's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.data.encoders import Encoders
from train.data.shards import is_url, set_of
from train.world.prepare import NAME
from train.world.stream import POOL, Painter, WorldStream
from train.world.ways import WAYS, Ways


@dataclass(frozen=True)
class Drawing:
    """How a run has its pictures drawn: see WorldStream."""

    ways: Ways = WAYS
    reuse: int = 8
    window: int = 1
    workers: int = 0
    pool: int = POOL

    @classmethod
    def of(cls, said: Any) -> Drawing:
        """As the settings or the arguments of a run say. Raises UserError."""
        return cls(Ways(said.general, said.partial), said.reuse, said.window, said.workers, said.pool)


def is_world(data: str | Path) -> bool:
    """Whether it is the folder of a world, not one of shards."""
    return not is_url(str(data)) and Path(data).is_dir() and set_of(Path(data)) == NAME


def open_world(
    data: str | Path, encoders: Encoders, drawing: Drawing, *, seed: int = 0, rank: int = 0, states: bool = True
) -> WorldStream:
    """The stream of a process. Raises UserError."""
    return WorldStream(
        Path(data),
        encoders,
        seed=seed,
        rank=rank,
        workers=drawing.workers,
        ways=drawing.ways,
        states=states,
        reuse=drawing.reuse,
        window=drawing.window,
        pool=drawing.pool,
    )


def world_pictures(data: Path, size: int, count: int, seed: int = 0, held_out: bool = False) -> np.ndarray:
    """u8[count, size, size, 3] of random scenes; held_out: of combinations that no run is shown. Raises UserError."""
    painter = Painter(data, size, seed)
    rng = np.random.default_rng([seed, int(held_out), 3])
    return painter.pictures([painter.scene(rng, held_out) for _ in range(count)])
