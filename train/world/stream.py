"""The world as an endless source of captioned pictures whose position is one number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
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
from train.progress import progress
from train.world.captions import caption
from train.world.drawing import draw
from train.world.prepare import read_portraits, read_things
from train.world.scenes import KINDS, Scene, World, choose
from train.world.sprites import Portrait, StoredSprites
from train.world.ways import WAYS, Ways

CHUNK = 32  # pictures that one process of the loader draws at a time
POOL = 4096  # pictures that are encoded at a time


@dataclass(frozen=True)
class Painted:
    """Pictures that were drawn and not encoded yet."""

    pixels: Tensor  # u8[n, size, size, 3]
    scenes: list[Scene]


class Painter:
    """Draws the world's scenes, numbered: number n of a seed is always the same picture and caption."""

    def __init__(self, folder: Path, size: int, seed: int = 0, ways: Ways = WAYS) -> None:
        self.folder, self.size, self.seed, self.ways = folder, size, seed, ways

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

    def numbered(self, number: int) -> Scene:
        """The scene of a number."""
        return self.scene(np.random.default_rng([self.seed, number]))

    def told(self, scene: Scene, number: int) -> str:
        """A caption of the scene; `number` says which."""
        return caption(scene, self.world, np.random.default_rng([self.seed, number, 1]), self.ways)

    def paint(self, numbers: range) -> Painted:
        """The pictures of some numbers."""
        scenes = [self.numbered(number) for number in numbers]
        pixels = [np.asarray(draw(scene, self.world, self.sprites, self.size)) for scene in scenes]
        return Painted(torch.from_numpy(np.stack(pixels)), scenes)


class _Chunks(Dataset[Painted]):
    """Chunk c is the pictures from c * CHUNK on."""

    def __init__(self, painter: Painter) -> None:
        self.painter = painter

    def __getitem__(self, index: int) -> Painted:
        torch.set_num_threads(1)
        return self.painter.paint(range(index * CHUNK, (index + 1) * CHUNK))


class WorldStream:
    """A DataSource that draws what it gives out. Each process of a run draws its own pictures.

    Pictures are drawn and encoded in pools of POOL; each is given out `reuse` times, with another caption each time,
    before the next pool is made: on a CPU drawing and encoding a picture costs as much as learning from it.
    workers: processes that draw ahead; 0 draws when asked. states: captions are encoded too; without, the text and pooled
    states that are given are empty, for a run whose text encoder learns.
    """

    def __init__(
        self,
        folder: Path,
        encoders: Encoders,
        *,
        seed: int = 0,
        rank: int = 0,
        workers: int = 0,
        ways: Ways = WAYS,
        states: bool = True,
        reuse: int = 1,
        pool: int = POOL,
    ) -> None:
        if reuse < 1:
            raise UserError(f"reuse={reuse}: must be at least 1")
        own = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
        self.encoders, self.rank, self.workers, self.reuse, self.pool = encoders, rank, workers, reuse, pool
        self.painter = Painter(folder, encoders.image_size, own, ways)
        self.painter.portraits  # noqa: B018  a damaged folder is reported now
        self.states = states
        self.latent_shape = encoders.latent_shape
        states, pooled = encoders.captions([""])
        self.no_text, self.no_text_pooled = states[0].float(), pooled[0].float()
        self._given = 0
        self._chunks: Iterator[Painted] | None = None
        self._pool: tuple[int, list[Scene], Tensor] | None = None  # number, scenes, latents

    def take(self, total: int, rows: slice, rng: np.random.Generator, drop_text: float) -> Examples:
        """The next pictures of this process."""
        dropped = rng.random(total)[rows] < drop_text
        numbers = range(self._given, self._given + len(dropped))
        picked = [self._pick(number) for number in numbers]
        scenes, latents = [scene for scene, _ in picked], torch.stack([latent for _, latent in picked])
        captions = [
            "" if drop else self.painter.told(scene, number)
            for scene, number, drop in zip(scenes, numbers, dropped, strict=True)
        ]
        if self.states:
            text, pooled = self.encoders.captions(captions)
        else:
            text, pooled = self.no_text.new_empty(0), self.no_text_pooled.new_empty(0)
        self._given = numbers.stop
        return Examples([scene.prompt for scene in scenes], latents.float(), text.float(), pooled.float(), captions)

    def _pick(self, number: int) -> tuple[Scene, Tensor]:
        """What is given out as number `number`: each pass over a pool has an order of its own."""
        passed, place = divmod(number, self.pool)
        pool = passed // self.reuse
        if self._pool is None or self._pool[0] != pool:
            self._pool = (pool, *self._painted(pool))
        row = int(self._order(passed)[place])
        _, scenes, latents = self._pool
        return scenes[row], latents[row]

    @lru_cache(maxsize=2)  # noqa: B019  two passes of one stream
    def _order(self, passed: int) -> np.ndarray:
        return np.random.default_rng([self.painter.seed, passed, 2]).permutation(self.pool)

    def _painted(self, pool: int) -> tuple[list[Scene], Tensor]:
        """The scenes of a pool, and their latents in half precision on the encoders' device."""
        scenes: list[Scene] = []
        latents: list[Tensor] = []
        first = pool * self.pool // CHUNK
        if self._chunks is None:
            self._chunks = self._painting(first)
        shown = progress("drawing pictures", self.pool) if pool == 0 or not self.workers else nullcontext()
        with shown as advance:
            while len(scenes) < self.pool:
                painted = next(self._chunks)
                scenes += painted.scenes
                latents.append(self._encode(painted.pixels).half())
                if advance is not None:
                    advance(len(painted.scenes))
        return scenes, torch.cat(latents)

    def _painting(self, first: int) -> Iterator[Painted]:
        """Chunk after chunk, from `first` on."""
        loader = DataLoader(
            _Chunks(self.painter),
            batch_size=None,
            sampler=range(first, first + 2**40),  # read one by one, never listed
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            multiprocessing_context="spawn" if self.workers else None,
        )
        return iter(loader)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """f32[n, C, h, w] of u8[n, size, size, 3]."""
        pictures = pixels.to(self.encoders.vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.cat([encode_latents(self.encoders.vae, part) for part in pictures.split(self.encoders.batch)])

    def state(self) -> dict[str, Any]:
        """How many pictures this process gave out."""
        return {"given": self._given, "rank": self.rank, "pool": self.pool, "reuse": self.reuse}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned; {} is the start. Raises UserError at another process's position.

        With another pool or reuse the stream goes on where a pool begins.
        """
        if state and state.get("rank") != self.rank:
            raise UserError(f"process {self.rank} was given another's data position: restore each one's own")
        self.close()
        given = int(state.get("given", 0))
        if state and (state.get("pool"), state.get("reuse")) != (self.pool, self.reuse):
            size = self.pool * self.reuse
            given = -(-given // size) * size
        self._given = given

    def close(self) -> None:
        """End the processes that draw ahead; `take` may be called again."""
        self._chunks, self._pool = None, None
