"""Shards encoded once and kept in a cache folder, and all shards of a split in memory as a Corpus."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast

from runtime.command import tell
from runtime.decoding import BadPicture
from runtime.errors import UserError
from runtime.files import locked
from train.data import shards as tar
from train.data.cache import LOG, read_tensors, write_tensors
from train.data.encoders import Advance, Encoders, fit_picture
from train.data.shards import DamagedShard, Record, has_split, is_url, read_records, shard_name, shard_paths
from train.latents import Autoencoder, encode_latents
from train.progress import progress

Bar = Callable[[str, int], AbstractContextManager[Advance]]  # (title, total) -> advance, as train.progress
MOST_JUDGED = 200  # training pictures, where none are held out
SKIP = ", or set bad_data=skip to continue without it"


@dataclass
class EncodedShard:
    """One shard as the U-Net sees it; pictures of weight 0 are left out."""

    records: list[Record]
    latents: Tensor  # bf16[N, C, h, w], scaled
    texts: list[str]  # the captions, each once
    text_states: Tensor | None = None  # bf16[T, 77, D]; None where captions are encoded per batch
    pooled: Tensor | None = None  # bf16[T, D]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.texts)}

    def embedding(self, text: str) -> tuple[Tensor, Tensor]:
        """(bf16[77, D], bf16[D]) of one of the captions."""
        assert self.text_states is not None and self.pooled is not None, "these captions are encoded per batch"
        return self.text_states[self._rows[text]], self.pooled[self._rows[text]]


@dataclass
class _Reading:
    """Problems met in reading one shard: an error at once, or with bad_data=skip notes for one line at the end."""

    shard: str
    skip: bool
    count: int = 0
    bad: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # further pictures of a sample
    cut: str = ""

    def picture(self, key: str, why: str) -> None:
        if not self.skip:
            raise tar.bad_picture(self.shard, key, why, SKIP)
        self.bad.append(f"{key}: {why}")

    def beside(self, sample: dict[str, Any]) -> None:
        plain, others = tar.picture_names(sample)
        self.unread += [f"{sample['__key__']}.{name}" for name in others if plain]

    def damage(self, error: DamagedShard) -> None:
        if not self.skip:
            raise tar.bad_shard(self.shard, self.count, str(error), SKIP) from error
        self.cut = str(error)

    def tell(self) -> None:
        name = shard_name(self.shard)
        if self.cut:
            LOG.warning("%s cannot be read beyond its first %d pictures (%s)", name, self.count, self.cut)
        if self.bad:
            LOG.warning("%s: %d bad pictures left out, the first %s", name, len(self.bad), self.bad[0])
        if self.unread:
            LOG.warning(
                "%s: %d pictures beside a sample's own left out, the first %s", name, len(self.unread), self.unread[0]
            )


class ShardEncoder:
    """Turns shards into EncodedShards, each encoded once however many processes share the cache folder.

    A cache file is named after the shard (a file's name, size and time, or the URL) and the networks, and holds a
    checksum: a file that does not match it is made again. bad_data: "error", or "skip" to leave out what is bad.
    """

    def __init__(
        self, encoders: Encoders, cache: Path | None, *, cache_text: bool = True, bad_data: str = "error"
    ) -> None:
        self.encoders, self.cache, self.cache_text = encoders, cache, cache_text
        self.skip = bad_data == "skip"

    def load(self, shard: str, bar: Bar = progress) -> EncodedShard:
        """The encoded shard. Raises UserError at bad data, and when the cache cannot be written."""
        with self._lock(shard):
            records, latents = self._pictures(shard, bar)
            encoded = EncodedShard(records, latents, sorted({text for record in records for text in record.captions}))
            if self.cache_text:
                encoded.text_states, encoded.pooled = self._captions(shard, encoded.texts, bar)
        return encoded

    def _pictures(self, shard: str, bar: Bar) -> tuple[list[Record], Tensor]:
        path = self._path(shard, "latents", self.encoders.picture_mark)
        found = read_tensors(path)
        if found and (self.skip or not found[1]["bad"]):
            return [_remembered(row) for row in found[1]["records"]], found[0]["latents"]
        reading = _Reading(shard, self.skip)
        with bar(f"pictures of {shard_name(shard)}", tar.count_pictures(shard)) as advance:
            records, latents = self._encode(reading, advance)
        reading.tell()
        if not reading.cut:  # what is missing may be there next time
            facts = {"records": [{"key": r.key, "record": r.to_json()} for r in records], "bad": reading.bad}
            write_tensors(path, {"latents": latents}, facts)
        return records, latents

    def _encode(self, reading: _Reading, advance: Advance) -> tuple[list[Record], Tensor]:
        """Read and encode a shard, a batch at a time; pictures whose latents are not finite are bad too."""
        kept: list[Record] = []
        parts = [torch.empty(0, *self.encoders.latent_shape, dtype=torch.bfloat16)]
        batch: list[tuple[Record, np.ndarray]] = []

        def flush() -> None:
            latents = encode_latents(self.encoders.vae, torch.from_numpy(np.stack([pixels for _, pixels in batch])))
            finite = latents.flatten(1).isfinite().all(dim=1).tolist()
            for (record, _), good in zip(batch, finite, strict=True):
                if good:
                    kept.append(record)
                else:
                    reading.picture(record.key, "its latents have NaN or Inf")
            parts.append(latents[torch.tensor(finite)].bfloat16().cpu())
            batch.clear()

        for pair in self._read(reading, advance):
            batch.append(pair)
            if len(batch) == self.encoders.batch:
                flush()
        if batch:
            flush()
        return kept, torch.cat(parts)

    def _read(self, reading: _Reading, advance: Advance) -> Iterator[tuple[Record, np.ndarray]]:
        """(record, f32[3, H, W]) of a shard's good pictures of weight above 0."""
        try:
            for sample in tar.read_shard(reading.shard):
                reading.count += 1
                advance(1)
                try:
                    record = tar.record_of(sample)
                    if record.weight > 0:
                        yield record, fit_picture(tar.picture_of(sample), self.encoders.image_size)
                        reading.beside(sample)
                except BadPicture as error:
                    reading.picture(sample["__key__"], str(error))
        except DamagedShard as error:
            reading.damage(error)

    def _captions(self, shard: str, texts: list[str], bar: Bar) -> tuple[Tensor, Tensor]:
        path = self._path(shard, "text", self.encoders.text_mark + repr(texts))
        found = read_tensors(path)
        if found:
            return found[0]["text_states"], found[0]["pooled"]
        with bar(f"captions of {shard_name(shard)}", len(texts)) as advance:
            states, pooled = self.encoders.captions(texts, advance)
        tensors = {"text_states": states.cpu(), "pooled": pooled.cpu()}
        write_tensors(path, tensors, {})
        return tensors["text_states"], tensors["pooled"]

    def _path(self, shard: str, kind: str, what: str) -> Path | None:
        if self.cache is None:
            return None
        digest = hashlib.sha256(f"{shard_identity(shard)}\n{what}".encode()).hexdigest()[:16]
        return self.cache / f"{_label(shard)}-{digest}.{kind}.safetensors"

    @contextmanager
    def _lock(self, shard: str) -> Iterator[None]:
        """One process at a time encodes a shard; the others find it in the cache. Ending releases it."""
        if self.cache is None:
            yield
            return
        with ExitStack() as stack:
            try:
                self.cache.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.cache / f".{_label(shard)}.lock", "", patience_s=math.inf))
            except OSError as error:
                raise UserError(f"the cache folder {self.cache} cannot be written: {error.strerror}") from error
            yield


def _remembered(row: dict[str, Any]) -> Record:
    """A record from a cache file; files of ADDKit 0.1 have all of it in one row."""
    said = row.get("record") or {name: value for name, value in row.items() if name != "key"}
    return Record.from_json(row["key"], said)


def shard_identity(shard: str) -> str:
    """What identifies the content of a shard: a file's name, size and time; a URL itself."""
    if is_url(shard) or not Path(shard).is_file():
        return shard
    facts = Path(shard).stat()
    return f"{Path(shard).name} {facts.st_size} {facts.st_mtime_ns}"


def _label(shard: str) -> str:
    return re.sub(r"[^\w.-]", "_", shard.rpartition("/")[2].removesuffix(".tar"))[-60:]


def choose_caption(count: int, draws: np.ndarray, drop_text: float) -> int | None:
    """Which of `count` captions three uniform draws choose: half of the time the plainest (0), else any of them.

    None, which stands for the empty caption, with probability drop_text.
    """
    if draws[0] < drop_text:
        return None
    return 0 if draws[1] < 0.5 else int(draws[2] * count)


@dataclass
class Corpus:
    """Captioned latents of one split. Texts are stored once, in `text_states`, and referred to by row."""

    records: list[Record]
    latents: Tensor  # bf16[N, C, h, w]
    caption_rows: list[list[int]]  # for each picture, the rows of its captions; the plainest first
    text_states: Tensor  # bf16[T, 77, D]; row 0 is the empty caption
    pooled: Tensor  # bf16[T, D]
    shards: Sequence[int] = ()  # for each picture, the index of its shard

    def batch(self, index: np.ndarray, rng: np.random.Generator, drop_text: float) -> tuple[Tensor, Tensor, Tensor]:
        """(latents f32[B, C, h, w], text states f32[B, 77, D], text rows i64[B]) of the given pictures.

        Half of the time the plainest caption, else any of them; the empty one with probability drop_text.
        """
        rows = self.choose_texts(index, rng.random((len(index), 3)), drop_text)
        return self.latents[torch.from_numpy(index)].float(), self.text_states[rows].float(), rows

    @cached_property
    def texts(self) -> list[str]:
        """The caption of each text row; "" is row 0."""
        texts = [""] * len(self.text_states)
        for record, rows in zip(self.records, self.caption_rows, strict=True):
            for row, caption in zip(rows, record.captions, strict=True):
                texts[row] = caption
        return texts

    def choose_texts(self, index: np.ndarray, draws: np.ndarray, drop_text: float) -> Tensor:
        """Text rows i64[B] of the pictures' captions by uniform draws f64[B, 3]."""
        chosen = []
        for captions, three in zip((self.caption_rows[i] for i in index), draws, strict=True):
            choice = choose_caption(len(captions), three, drop_text)
            chosen.append(0 if choice is None else captions[choice])
        return torch.tensor(chosen, dtype=torch.long)

    def draw(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of `batch` pictures, by weight."""
        return np.searchsorted(self._cumulative, rng.random(batch), side="right")

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = np.cumsum([record.weight for record in self.records])
        return total / total[-1]


def share_compositions(corpus: Corpus, first: int, share: float) -> None:
    """Reweight the pictures of the shards from `first` on so that they make up `share` of what is drawn.

    Changes the corpus. share: at least 0, below 1. Raises UserError unless there are pictures in these shards, and
    in others.
    """
    ours = np.array(corpus.shards) >= first
    weights = np.array([record.weight for record in corpus.records])
    theirs = weights[ours].sum()
    if not theirs or ours.all():
        raise UserError(f"a share of {share:g} for compositions: the data needs both composed and other pictures")
    weights[ours] *= share / (1 - share) * (weights.sum() - theirs) / theirs
    corpus.records = [replace(record, weight=w) for record, w in zip(corpus.records, weights.tolist(), strict=True)]


def load_pictures(data: Path, split: str) -> tuple[list[Record], np.ndarray]:
    """(records, u8[N, H, W, 3]) of a split, near-duplicates left out. Raises UserError where their sizes differ."""
    kept = [(record, picture) for record, picture in read_records(data, split) if record.weight > 0]
    sizes = {picture.shape[1::-1]: record.key for record, picture in kept}
    if len(sizes) > 1:
        first, second, *_ = (f"{key} is {width}x{height}" for (width, height), key in sizes.items())
        raise UserError(
            f"{data}: the pictures of {split} have different sizes ({first}, {second}): import them with one --size"
        )
    if not kept:
        raise UserError(f"{data}: {split} holds no picture of a weight above 0")
    return [record for record, _ in kept], np.stack([picture for _, picture in kept])


def load_held_out(data: Path) -> np.ndarray:
    """u8[N, H, W, 3] for evaluation: the held-out split, or, with a warning, training pictures where there is none."""
    if has_split(data, "held_out"):
        return load_pictures(data, "held_out")[1]
    tell(f"{data}: nothing is held out, so the figures are of training pictures")
    return load_pictures(data, "train")[1][:MOST_JUDGED]


def load_corpus(
    data: Path,
    split: str,
    vae: Autoencoder,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer | CLIPTokenizerFast,
    cache: Path | None = None,
    compositions: float = 0.0,
) -> Corpus:
    """Pictures of a split at their own size, and captions, encoded; with `cache`, kept there.

    compositions: the share of what is drawn that comes from the composed split, which is read too unless it is 0.
    """
    own = [str(path) for path in shard_paths(data, split)]
    shards = own + ([str(path) for path in shard_paths(data, "composed")] if compositions else [])
    first = next(read_records(data, split), None)
    if first is None:
        raise no_pictures(shards)
    encoders = Encoders(vae, text_encoder, tokenizer, first[1].shape[0], vae.device)
    corpus = assemble(shards, ShardEncoder(encoders, cache))
    if compositions:
        share_compositions(corpus, len(own), compositions)
    return corpus


def no_pictures(shards: Sequence[str]) -> UserError:
    return UserError(f"{shard_name(shards[0])} and the shards beside it hold no usable picture")


def assemble(shards: Sequence[str], encoder: ShardEncoder, first: int = 0) -> Corpus:
    """All shards in memory, in their order. Raises UserError when they hold no picture.

    first: the shard to encode first: processes that begin at different ones share the work.
    """
    order = [(index + first) % len(shards) for index in range(len(shards))]
    encoded = dict(sorted((index, encoder.load(shards[index])) for index in order))
    records = [record for part in encoded.values() for record in part.records]
    if not records:
        raise no_pictures(shards)
    rows: dict[str, int] = {"": 0}
    for part in encoded.values():
        for text in part.texts:
            rows.setdefault(text, len(rows))
    none = encoder.encoders.captions([""])
    states, pooled = (torch.empty(len(rows), *like.shape[1:], dtype=like.dtype) for like in none)
    states[0], pooled[0] = none[0][0], none[1][0]
    for part in encoded.values():
        assert part.text_states is not None and part.pooled is not None, "a corpus keeps its captions' states"
        places = torch.tensor([rows[text] for text in part.texts], dtype=torch.long)
        states[places], pooled[places] = part.text_states, part.pooled
    latents = torch.cat([part.latents for part in encoded.values()])
    caption_rows = [[rows[text] for text in record.captions] for record in records]
    places_of = [index for index, part in encoded.items() for _ in part.records]
    return Corpus(records, latents, caption_rows, states, pooled, places_of)
