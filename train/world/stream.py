"""The world as an endless source of captioned pictures whose position is one number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from runtime.errors import UserError
from train.data.encoders import Encoders
from train.data.examples import Examples
from train.latents import encode_latents
from train.world.captions import WAYS, caption
from train.world.drawing import draw
from train.world.prepare import read_portraits, read_things
from train.world.scenes import KINDS, Scene, World, choose
from train.world.sprites import Portrait, StoredSprites

CHUNK = 32  # pictures that one process of the loader draws at a time


@dataclass(frozen=True)
class Painted:
    """Pictures that were drawn and not encoded yet."""

    pixels: Tensor  # u8[n, size, size, 3]
    captions: list[str]
    keys: list[str]


class Painter:
    """Draws the world's scenes, numbered: number n of a seed is always the same picture and caption."""

    def __init__(self, folder: Path, size: int, seed: int = 0, general: float = WAYS["general"]) -> None:
        self.folder, self.size, self.seed, self.general = folder, size, seed, general

    @cached_property
    def world(self) -> World:
        """Read once in each process."""
        return World(read_things(self.folder))

    @cached_property
    def sprites(self) -> StoredSprites:
        """Read once in each process."""
        return StoredSprites(self.folder)

    @cached_property
    def portraits(self) -> list[Portrait]:
        """All portraits that are drawn."""
        return read_portraits(self.folder)

    def scene(self, rng: np.random.Generator, held_out: bool = False) -> Scene:
        """A random scene; a portrait is one of those that are drawn."""
        while True:
            if choose(KINDS, rng) == "portrait":
                portrait = self.portraits[int(rng.integers(len(self.portraits)))]
                scene = self.world.portrait(portrait.subject, portrait.words, rng)
            else:
                scene = self.world.any_thing(rng)
            if self.world.is_held_out(scene) == held_out:
                return scene

    def numbered(self, number: int) -> tuple[Scene, str]:
        """The scene of a number, and its caption."""
        rng = np.random.default_rng([self.seed, number])
        scene = self.scene(rng)
        return scene, caption(scene, self.world, rng, self.general)

    def paint(self, numbers: range) -> Painted:
        """The pictures of some numbers."""
        told = [self.numbered(number) for number in numbers]
        pixels = [np.asarray(draw(scene, self.world, self.sprites, self.size)) for scene, _ in told]
        return Painted(
            torch.from_numpy(np.stack(pixels)), [said for _, said in told], [scene.prompt for scene, _ in told]
        )


class _Chunks(Dataset[Painted]):
    """Chunk c is the pictures from c * CHUNK on."""

    def __init__(self, painter: Painter) -> None:
        self.painter = painter

    def __getitem__(self, index: int) -> Painted:
        torch.set_num_threads(1)
        return self.painter.paint(range(index * CHUNK, (index + 1) * CHUNK))


class WorldStream:
    """A DataSource that draws what it gives out. Each process of a run draws its own pictures.

    workers: processes that draw ahead; 0 draws when asked.
    """

    def __init__(
        self, folder: Path, encoders: Encoders, *, seed: int = 0, rank: int = 0, workers: int = 0, general: float = 0.15
    ) -> None:
        if not 0 <= general <= 1:
            raise UserError(f"general={general}: must be a share of the captions, from 0 to 1")
        self.encoders, self.rank, self.workers = encoders, rank, workers
        self.painter = Painter(
            folder, encoders.image_size, int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
        )
        self.painter.general = general
        self.latent_shape = encoders.latent_shape
        states, pooled = encoders.captions([""])
        self.no_text, self.no_text_pooled = states[0].float(), pooled[0].float()
        self.painter.portraits  # noqa: B018  a damaged folder is reported now
        self._given = 0
        self._chunks: Iterator[Painted] | None = None
        self._rest: list[tuple[Tensor, str, str]] = []

    def take(self, total: int, rows: slice, rng: np.random.Generator, drop_text: float) -> Examples:
        """The next pictures of this process."""
        dropped = rng.random(total)[rows] < drop_text
        pixels, texts, keys = zip(*(self._next() for _ in dropped), strict=True)
        captions = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
        text, pooled = self.encoders.captions(captions)
        return Examples(list(keys), self._encode(torch.stack(pixels)), text.float(), pooled.float(), captions)

    def _next(self) -> tuple[Tensor, str, str]:
        if not self._rest:
            painted = next(self._painting())
            rows = list(zip(painted.pixels, painted.captions, painted.keys, strict=True))
            self._rest = rows[self._given % CHUNK :]
        self._given += 1
        return self._rest.pop(0)

    def _painting(self) -> Iterator[Painted]:
        if self._chunks is None:
            first = self._given // CHUNK
            loader = DataLoader(
                _Chunks(self.painter),
                batch_size=None,
                sampler=range(first, first + 2**40),  # read one by one, never listed
                num_workers=self.workers,
                prefetch_factor=4 if self.workers else None,
                multiprocessing_context="spawn" if self.workers else None,
            )
            self._chunks = iter(loader)
        return self._chunks

    def _encode(self, pixels: Tensor) -> Tensor:
        """f32[n, C, h, w] of u8[n, size, size, 3]."""
        device = self.encoders.vae.device
        pictures = pixels.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.cat([encode_latents(self.encoders.vae, part) for part in pictures.split(self.encoders.batch)])

    def state(self) -> dict[str, Any]:
        """How many pictures this process gave out."""
        return {"world": self._given, "rank": self.rank}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned; {} is the start. Raises UserError at another process's position."""
        if state and state.get("rank") != self.rank:
            raise UserError(f"process {self.rank} was given another's data position: restore each one's own")
        self.close()
        self._given = int(state.get("world", 0))

    def close(self) -> None:
        """End the processes that draw ahead; `take` may be called again."""
        self._chunks, self._rest = None, []
