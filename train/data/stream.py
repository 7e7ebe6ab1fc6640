"""Shards in an endless shuffled stream whose position is three numbers, read and encoded one group ahead.

Every epoch permutes the shards and deals them to the processes; a process takes its shards in groups and permutes
each group's pictures. All of it follows from (seed, epoch, rank, group): a run resumes from (epoch, group, offset)
exactly, and reads no more than that one group to do so.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.errors import UserError
from train.data.cache import LOG
from train.data.corpus import EncodedShard, ShardEncoder, choose_caption
from train.data.encoders import Advance
from train.data.examples import Examples
from train.data.shards import Record, shard_name
from train.progress import progress

PATIENCE_S = 2.0  # a longer wait shows a bar
CLOSE_S = 10.0  # the longest wait for a thread that hangs in a network read


class Place(NamedTuple):
    """Where a process is: the pictures of this group from `offset` on come next."""

    epoch: int
    group: int
    offset: int


@dataclass
class Group:
    """The pictures of a few shards in the order in which they are given out: (shard, row) pairs."""

    epoch: int
    number: int
    order: list[tuple[EncodedShard, int]]

    @property
    def digest(self) -> str:
        """A hash of the keys in order: a position within the group is valid only while they stay the same."""
        keys = "\n".join(shard.records[row].key for shard, row in self.order)
        return hashlib.sha256(keys.encode()).hexdigest()[:16]


class ShardStream:
    """A DataSource over shards (paths and URLs) of any number. Raises UserError when processes outnumber them."""

    variation: dict[str, Any] | None = None

    def __init__(
        self,
        shards: Sequence[str],
        encoder: ShardEncoder,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle_shards: int = 4,
    ) -> None:
        if world > len(shards):
            raise UserError(
                f"more processes ({world}) than shards ({len(shards)}): write smaller shards, start at most "
                f"{len(shards)} processes, or set streaming=false"
            )
        if shuffle_shards < 1:
            raise UserError(f"shuffle_shards={shuffle_shards} must be at least 1")
        self.shards, self.encoder = list(shards), encoder
        self.seed, self.rank, self.world, self.shuffle_shards = seed, rank, world, shuffle_shards
        self.latent_shape = encoder.encoders.latent_shape
        states, pooled = encoder.encoders.captions([""])
        self.no_text, self.no_text_pooled = states[0].float(), pooled[0].float()
        self._none = states[0].cpu(), pooled[0].cpu()
        self._place = Place(0, 0, 0)
        self._expected = ""  # digest of the group that a restored position is in
        self._group: Group | None = None
        self._reader = _Reader()
        weakref.finalize(self, self._reader.close)  # also when the interpreter ends

    def take(self, total: int, rows: slice, rng: np.random.Generator, drop_text: float) -> Examples:
        """The next pictures of this process. An error leaves the position where it was."""
        draws = rng.random((total, 3))[rows]
        picked, group, place = self._pick(len(draws))
        examples = self._examples(picked, draws, drop_text)
        self._group, self._place = group, place
        self._expected = "" if picked else self._expected
        return examples

    def state(self) -> dict[str, Any]:
        """Epoch, group and offset of this process, and what they depend on. Each process saves its own."""
        group = self._group
        here = group is not None and (group.epoch, group.number) == self._place[:2]
        digest = group.digest if group is not None and here and self._place.offset else self._expected
        return {**self._place._asdict(), "rank": self.rank, "digest": digest, **self._basis()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned; {} is the start.

        When the shards, the seed, `shuffle_shards` or the number of processes are no longer the same, the epoch
        begins again, with a line that says so. Raises UserError at another process's position.
        """
        try:
            place = Place(*(int(state.get(name, 0)) for name in Place._fields))
        except (TypeError, ValueError) as error:
            raise UserError(f"the saved data position cannot be read: {state}") from error
        changed = [name for name, value in self._basis().items() if state and state.get(name) != value]
        if changed:
            LOG.warning("%s changed since the checkpoint: epoch %d begins again", " and ".join(changed), place.epoch)
            place = Place(place.epoch, 0, 0)
        elif state and state["rank"] != self.rank:
            raise UserError(
                f"process {self.rank} was given the data position of process {state['rank']}: restore each one's own"
            )
        self._reader.close()
        self._group, self._place = None, place
        self._expected = str(state.get("digest", "")) if place.offset else ""

    def close(self) -> None:
        """End the background thread; `take` may be called again."""
        self._reader.close()

    # ---- the order ------------------------------------------------------------------------------------------

    def _basis(self) -> dict[str, Any]:
        """What determines the order of pictures; the folder may move."""
        names = "\n".join(map(shard_name, self.shards))
        shards = f"{len(self.shards)}-{hashlib.sha256(names.encode()).hexdigest()[:16]}"
        return {"world": self.world, "shards": shards, "seed": self.seed, "shuffle_shards": self.shuffle_shards}

    def _groups(self, epoch: int) -> list[list[str]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))[self.rank :: self.world]
        mine = [self.shards[index] for index in order]
        return [mine[start : start + self.shuffle_shards] for start in range(0, len(mine), self.shuffle_shards)]

    def _following(self, place: Place) -> Place:
        last = place.group + 1 == len(self._groups(place.epoch))
        return Place(place.epoch + 1, 0, 0) if last else Place(place.epoch, place.group + 1, 0)

    def _read(self, place: Place, job: _Job) -> Group:
        """A group, its pictures permuted; one of weight w is in it w times, randomly rounded where w is not whole."""
        names = self._groups(place.epoch)[place.group]
        shards = [self.encoder.load(shard, job.bar) for shard in job.counted(names)]
        everything = [(shard, row) for shard in shards for row in range(len(shard.records))]
        rng = np.random.default_rng([self.seed, place.epoch, self.rank + 1, place.group])
        weights = np.array([shard.records[row].weight for shard, row in everything])
        copies = np.floor(weights + rng.random(len(everything))).astype(int)
        order = rng.permutation(np.repeat(np.arange(len(everything)), copies))
        return Group(place.epoch, place.group, [everything[index] for index in order])

    # ---- pictures -------------------------------------------------------------------------------------------

    def _pick(self, count: int) -> tuple[list[tuple[EncodedShard, int]], Group | None, Place]:
        """The next `count` pictures, and the group and place after them; changes nothing."""
        picked: list[tuple[EncodedShard, int]] = []
        group, place, fruitful = self._group, self._place, self._place.epoch
        while len(picked) < count:
            group = self._load(group, place)
            offset = self._checked_offset(group, place)
            taken = group.order[offset : offset + count - len(picked)]
            picked += taken
            fruitful = place.epoch if taken else fruitful
            place = place._replace(offset=offset + len(taken))
            if place.offset >= len(group.order):
                place = self._following(place)
            if place.epoch > fruitful + 1:
                raise UserError(f"the shards of process {self.rank} hold no usable picture in a whole epoch")
        return picked, group, place

    def _load(self, group: Group | None, place: Place) -> Group:
        """The group at a position, from the background thread, which then begins the next one."""
        if group is None or (group.epoch, group.number) != place[:2]:
            group = self._reader.take(place[:2], lambda job: self._read(place, job))
        following = self._following(place)
        self._reader.begin(following[:2], lambda job: self._read(following, job))
        return group

    def _checked_offset(self, group: Group, place: Place) -> int:
        if self._expected and place == self._place and group.digest != self._expected:
            LOG.warning("the shards' pictures changed since the checkpoint: their group begins again")
            return 0
        return min(place.offset, len(group.order))

    def _examples(self, picked: list[tuple[EncodedShard, int]], draws: np.ndarray, drop_text: float) -> Examples:
        records = [shard.records[row] for shard, row in picked]
        texts = [_chosen(record, three, drop_text) for record, three in zip(records, draws, strict=True)]
        text, pooled = self._embed(texts, [shard for shard, _ in picked])
        nought = torch.empty(self.latent_shape, dtype=torch.bfloat16)
        latents = _stack([shard.latents[row] for shard, row in picked], nought)
        return Examples([record.key for record in records], latents.to(text.device).float(), text, pooled, texts)

    def _embed(self, texts: list[str], shards: list[EncodedShard]) -> tuple[Tensor, Tensor]:
        """(f32[n, 77, D], f32[n, D]) of the captions on the device: the shards' own, or encoded now."""
        if not self.encoder.cache_text:
            states, pooled = self.encoder.encoders.captions(texts)
            return states.float(), pooled.float()
        pairs = [shard.embedding(text) if text else self._none for text, shard in zip(texts, shards, strict=True)]
        states, pooled = (_stack([pair[place] for pair in pairs], self._none[place]) for place in (0, 1))
        return states.to(self.no_text.device).float(), pooled.to(self.no_text.device).float()


def _stack(parts: list[Tensor], like: Tensor) -> Tensor:
    """The parts stacked along a new first axis; where there are none, `like` gives the shape of one."""
    return torch.stack(parts) if parts else like.new_empty(0, *like.shape)


def _chosen(record: Record, draws: np.ndarray, drop_text: float) -> str:
    choice = choose_caption(len(record.captions), draws, drop_text)
    return "" if choice is None else record.captions[choice]


class _Stopped(Exception):
    """The reader was closed while it read."""


class _Job:
    """One group, read on a thread of its own that ends with the process."""

    def __init__(self, key: tuple[int, int], make: Callable[[_Job], Group]) -> None:
        self.key, self.result = key, Future[Group]()
        self.done, self.total = 0, 0  # shards
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make,), name="shards", daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[_Job], Group]) -> None:
        try:
            self.result.set_result(make(self))
        except BaseException as error:  # raised again where the group is asked for
            self.result.set_exception(error)

    def counted(self, shards: Sequence[str]) -> Iterator[str]:
        """The shards one by one, for the bar of `wait`."""
        self.total = len(shards)
        for self.done, shard in enumerate(shards):
            yield shard

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Shows no bar, as the thread is in the background, but lets it stop here."""
        yield self._advance

    def _advance(self, count: int) -> None:
        if self._stop.is_set():
            raise _Stopped

    def close(self) -> None:
        self._stop.set()
        if self._thread is not threading.current_thread():  # which may hold the stream's last reference
            self._thread.join(CLOSE_S)

    def wait(self) -> Group:
        """The group; a long wait shows a bar."""
        try:
            return self.result.result(PATIENCE_S)
        except NotYet:
            if self.result.done():  # the reading itself timed out
                raise
        with progress("reading shards", self.total) as advance:
            shown = 0
            while not self.result.done():
                advance(self.done - shown)
                shown = self.done
                self._thread.join(0.2)
        return self.result.result()


class _Reader:
    """At most one group being read ahead."""

    def __init__(self) -> None:
        self._job: _Job | None = None

    def begin(self, key: tuple[int, int], make: Callable[[_Job], Group]) -> None:
        """Start to read a group, unless that one is being read."""
        if self._job is None or self._job.key != key:
            self.close()
            self._job = _Job(key, make)

    def take(self, key: tuple[int, int], make: Callable[[_Job], Group]) -> Group:
        """Wait for the group; raises what reading it raised, after which it may be tried again."""
        self.begin(key, make)
        job, self._job = self._job, None
        assert job is not None
        return job.wait()

    def close(self) -> None:
        if self._job is not None:
            self._job.close()
            self._job = None
