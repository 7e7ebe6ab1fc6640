"""The world as an endless source of captioned pictures whose position is one number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer, CLIPTokenizerFast

from runtime.errors import UserError
from train.data.encoders import Encoders, encode_ids, token_ids
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
    """Pictures that were drawn and not encoded yet, each with several captions. Arrays: they cross processes."""

    pixels: np.ndarray  # u8[n, size, size, 3]
    prompts: list[str]  # complete ones
    captions: list[list[str]]  # [n][several]
    ids: np.ndarray  # i32[n, several, 77] of the captions


@dataclass(frozen=True)
class _Pool:
    """Encoded pictures, to be given out in any order."""

    latents: Tensor  # f16[n, C, h, w] on the encoders' device
    prompts: list[str]
    captions: list[list[str]]
    ids: Tensor  # i32[n, several, 77]


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

    def told(self, scene: Scene, number: int, which: int = 0) -> str:
        """A caption of the scene of a number; `which` of them."""
        return caption(scene, self.world, np.random.default_rng([self.seed, number, 1, which]), self.ways)

    def pictures(self, scenes: Sequence[Scene]) -> np.ndarray:
        """u8[n, size, size, 3]."""
        return np.stack([np.asarray(draw(scene, self.world, self.sprites, self.size)) for scene in scenes])

    def paint(self, numbers: range, tokenizer: CLIPTokenizer | CLIPTokenizerFast, captions: int) -> Painted:
        """The pictures of some numbers, each with so many captions."""
        scenes = [self.numbered(number) for number in numbers]
        told = [
            [self.told(scene, number, which) for which in range(captions)]
            for scene, number in zip(scenes, numbers, strict=True)
        ]
        ids = token_ids(tokenizer, [text for several in told for text in several])
        ids = ids.reshape(len(scenes), captions, -1)
        return Painted(self.pictures(scenes), [scene.prompt for scene in scenes], told, ids.numpy().astype(np.int32))


class _Chunks(Dataset[Painted]):
    """Chunk c is the pictures from c * CHUNK on."""

    def __init__(self, painter: Painter, tokenizer: CLIPTokenizer | CLIPTokenizerFast, captions: int) -> None:
        self.painter, self.tokenizer, self.captions = painter, tokenizer, captions

    def __getitem__(self, index: int) -> Painted:
        return self.painter.paint(range(index * CHUNK, (index + 1) * CHUNK), self.tokenizer, self.captions)


class WorldStream:
    """A DataSource that draws what it gives out. Each process of a run draws its own pictures.

    Pictures are drawn and encoded in pools of POOL. After `reuse` passes of that many pictures, each with another
    caption, the next pool is made: on a CPU drawing and encoding a picture costs as much as learning from it, and a
    GPU learns faster than any CPU draws. A pass takes its pictures from the newest `window` pools.
    workers: processes that draw ahead; 0 draws when asked. states: captions are encoded too; without,
    the text and pooled states that are given are empty, for a run whose text encoder learns.
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
        window: int = 1,
        pool: int = POOL,
    ) -> None:
        for name, value in (("reuse", reuse), ("window", window)):
            if value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        if pool < 1 or pool % CHUNK:
            raise UserError(f"pool={pool}: must be a multiple of {CHUNK}")
        own = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
        self.encoders, self.rank, self.workers = encoders, rank, workers
        self.reuse, self.window, self.pool = reuse, window, pool
        self.painter = Painter(folder, encoders.image_size, own, ways)
        self.painter.portraits  # noqa: B018  a damaged folder is reported now
        self.states = states
        self.latent_shape = encoders.latent_shape
        self._no_ids = token_ids(encoders.tokenizer, [""])[0].int()
        states_of_none, pooled = encoders.captions([""])
        self.no_text, self.no_text_pooled = states_of_none[0].float(), pooled[0].float()
        self._given = 0
        self._chunks: Iterator[Painted] | None = None
        self._next = 0  # chunk
        self._pools: dict[int, _Pool] = {}

    @property
    def variation(self) -> dict[str, Any]:
        """The table that the scenes are drawn from."""
        return self.painter.world.table.to_json()

    def take(self, total: int, rows: slice, rng: np.random.Generator, drop_text: float) -> Examples:
        """The next pictures of this process."""
        dropped = rng.random(total)[rows] < drop_text
        taken = [self._place(number) for number in range(self._given, self._given + len(dropped))]
        self._given += len(dropped)
        prompts = [pool.prompts[row] for pool, row, _ in taken]
        captions = [
            "" if drop else pool.captions[row][which] for (pool, row, which), drop in zip(taken, dropped, strict=True)
        ]
        latents, ids = self._gathered(taken)
        ids[torch.from_numpy(dropped)] = self._no_ids
        if self.states:
            text, pooled = encode_ids(self.encoders.text_encoder, ids.long(), dtype=torch.bfloat16)
        else:
            text, pooled = self.no_text.new_empty(0), self.no_text_pooled.new_empty(0)
        return Examples(prompts, latents, text.float(), pooled.float(), captions, ids)

    def _gathered(self, taken: Sequence[tuple[_Pool, int, int]]) -> tuple[Tensor, Tensor]:
        """Latents f32[n, C, h, w] and tokens i32[n, 77] of (pool, row, caption)."""
        latents = torch.empty(len(taken), *self.latent_shape, device=self.encoders.vae.device)
        ids = torch.empty(len(taken), self._no_ids.numel(), dtype=torch.int32)
        for one in {id(pool): pool for pool, _, _ in taken}.values():
            places = torch.tensor([place for place, (pool, _, _) in enumerate(taken) if pool is one])
            rows, which = torch.tensor([row_which[1:] for row_which in taken if row_which[0] is one]).unbind(1)
            latents[places.to(latents.device)] = one.latents[rows.to(latents.device)].float()
            ids[places] = one.ids[rows, which]
        return latents, ids

    def _place(self, number: int) -> tuple[_Pool, int, int]:
        """(pool, row, caption) of what is given out as number `number`; its pool is drawn where it is not yet."""
        passed, place = divmod(number, self.pool)
        newest = passed // self.reuse
        oldest = max(0, newest - self.window + 1)
        if newest not in self._pools:
            self._pools = {key: pool for key, pool in self._pools.items() if oldest <= key < newest}
            for missing in sorted({*range(oldest, newest + 1)} - {*self._pools}):
                self._pools[missing] = self._painted(missing)
        pool, row = divmod(int(self._order(passed, newest + 1 - oldest)[place]), self.pool)
        return self._pools[oldest + pool], row, passed % self.reuse

    @lru_cache(maxsize=2)  # noqa: B019  two passes of one stream
    def _order(self, passed: int, pools: int) -> np.ndarray:
        """i64[pool]: which of the pictures of so many pools a pass takes."""
        rng = np.random.default_rng([self.painter.seed, passed, 2])
        return rng.choice(pools * self.pool, self.pool, replace=False)

    def _painted(self, pool: int) -> _Pool:
        """The pictures of a pool, encoded."""
        drawn: list[Painted] = []
        latents: list[Tensor] = []
        first = pool * self.pool // CHUNK
        if self._chunks is None or self._next != first:
            self._chunks = self._painting(first)
        self._next = first + self.pool // CHUNK
        shown = progress("drawing pictures", self.pool) if pool == 0 or not self.workers else nullcontext()
        with shown as advance:
            for _ in range(self.pool // CHUNK):
                painted = next(self._chunks)
                drawn.append(painted)
                latents.append(self._encode(torch.from_numpy(painted.pixels)).half())
                if advance is not None:
                    advance(CHUNK)
        return _Pool(
            torch.cat(latents),
            [prompt for painted in drawn for prompt in painted.prompts],
            [several for painted in drawn for several in painted.captions],
            torch.from_numpy(np.concatenate([painted.ids for painted in drawn])),
        )

    def _painting(self, first: int) -> Iterator[Painted]:
        """Chunk after chunk, from `first` on."""
        ahead = -(-self.pool // CHUNK // max(1, self.workers))  # chunks a process: a pool stands ready in time
        loader = DataLoader(
            _Chunks(self.painter, self.encoders.tokenizer, self.reuse),
            batch_size=None,
            sampler=range(first, first + 2**40),  # read one by one, never listed
            num_workers=self.workers,
            prefetch_factor=max(2, ahead) if self.workers else None,
            multiprocessing_context="spawn" if self.workers else None,
        )
        return iter(loader)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """f32[n, C, h, w] of u8[n, size, size, 3]."""
        pictures = pixels.to(self.encoders.vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.cat([encode_latents(self.encoders.vae, part) for part in pictures.split(self.encoders.batch)])

    def state(self) -> dict[str, Any]:
        """How many pictures this process gave out, and how they were drawn."""
        return {"given": self._given, "rank": self.rank, **self._drawing}

    @property
    def _drawing(self) -> dict[str, int]:
        return {"pool": self.pool, "reuse": self.reuse, "window": self.window}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned; {} is the start. Raises UserError at another process's position.

        With another pool, reuse or window the stream goes on where a pool begins.
        """
        if state and state.get("rank") != self.rank:
            raise UserError(f"process {self.rank} was given another's data position: restore each one's own")
        self.close()
        given = int(state.get("given", 0))
        if state and any(state.get(name) != value for name, value in self._drawing.items()):
            size = self.pool * self.reuse
            given = -(-given // size) * size
        self._given = given

    def close(self) -> None:
        """End the processes that draw ahead; `take` may be called again."""
        self._chunks, self._pools = None, {}
