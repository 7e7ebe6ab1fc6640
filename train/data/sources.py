"""Where the trainer's pictures come from: all of a split in memory, or shards in a stream, behind one interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import UserError
from runtime.variation import Variation
from train.checkpoint import VARIATION
from train.data.corpus import Corpus, ShardEncoder, assemble, share_compositions
from train.data.encoders import Encoders
from train.data.examples import DataSource, Examples
from train.data.shards import is_url, list_shards

MEMORY_SHARDS = 32  # a folder of up to so many shards is held in memory unless the user says otherwise


class MemorySource:
    """A Corpus from which every update draws by weight; its only position is the rng.

    All processes draw the whole update and keep their rows, so that the result does not depend on their number.
    """

    def __init__(
        self, corpus: Corpus, device: torch.device | str = "cpu", variation: dict[str, Any] | None = None
    ) -> None:
        self.corpus, self.device, self.variation = corpus, device, variation
        channels, height, width = corpus.latents.shape[1:]
        self.latent_shape = (channels, height, width)
        self.no_text = corpus.text_states[0].to(device).float()
        self.no_text_pooled = corpus.pooled[0].to(device).float()

    def take(self, total: int, rows: slice, rng: np.random.Generator, drop_text: float) -> Examples:
        corpus = self.corpus
        index, draws = corpus.draw(total, rng)[rows], rng.random((total, 3))[rows]
        texts = corpus.choose_texts(index, draws, drop_text)
        return Examples(
            [corpus.records[i].key for i in index],
            corpus.latents[torch.from_numpy(index)].to(self.device).float(),
            corpus.text_states[texts].to(self.device).float(),
            corpus.pooled[texts].to(self.device).float(),
            [corpus.texts[row] for row in texts.tolist()],
        )

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Does nothing: a stream's position means nothing here."""

    def close(self) -> None:
        """Does nothing: there is no work in the background."""


def open_source(
    data: str,
    encoders: Encoders,
    cache: Path,
    *,
    streaming: str = "auto",
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    shuffle_shards: int = 4,
    split: str = "train",
    bad_data: str = "error",
    cache_text: bool = True,
    compositions: float = 0.0,
) -> DataSource:
    """The pictures of a folder's split, or of the shards that paths and URLs with braces name.

    data: as `train.data.shards.list_shards` takes it. streaming: "true", "false" (all in memory), or "auto", which
    streams URLs, folders of more than 32 shards, and whatever has cache_text=False. cache: where latents and text
    embeddings are kept, each shard's computed once; all processes may share it. cache_text=False encodes captions per
    batch instead: 77 x 1024 values in bf16 are 158 KB per caption. bad_data: "error", or "skip" to leave out pictures
    and rests of shards that cannot be used. compositions: the share of pictures that come from a folder's composed
    split, which needs all pictures in memory. Raises UserError.
    """
    from train.data.stream import ShardStream

    for name, value, allowed in (
        ("streaming", streaming, ("auto", "true", "false")),
        ("bad_data", bad_data, ("error", "skip")),
    ):
        if value not in allowed:
            raise UserError(f"{name}={value}: choose one of {', '.join(allowed)}")
    own, variation = list_shards(data, split), table_of(data)
    shards = own + (_composed_shards(data) if compositions else [])
    encoder = ShardEncoder(encoders, cache, cache_text=cache_text, bad_data=bad_data)
    large = len(shards) > MEMORY_SHARDS or any(map(is_url, shards)) or not cache_text
    if streaming == "true" or (streaming == "auto" and large):
        if compositions:
            raise UserError(
                "compositions needs all pictures in memory: set streaming=false and cache_text=true, or compositions=0"
            )
        stream = ShardStream(shards, encoder, seed=seed, rank=rank, world=world, shuffle_shards=shuffle_shards)
        stream.variation = variation
        return stream
    if not cache_text:
        raise UserError("streaming=false keeps every caption's states in memory: set cache_text=true")
    corpus = assemble(shards, encoder, first=rank * len(shards) // world)
    if compositions:
        share_compositions(corpus, len(own), compositions)
    return MemorySource(corpus, encoders.device, variation)


def table_of(data: str) -> dict[str, Any] | None:
    """The table of what prompts leave open that lies in a folder of shards as variation.json; None where there is none.

    What is trained on such a folder takes it along, into pipeline and bundles. Raises UserError where it is damaged.
    """
    path = Path(data) / VARIATION
    if is_url(data) or not path.is_file():
        return None
    try:
        return Variation.from_json(json.loads(path.read_text(encoding="utf-8"))).to_json()
    except ValueError as error:
        raise UserError(f"{path} is no table of variation: {error}") from error


def _composed_shards(data: str) -> list[str]:
    """The composed split of a folder; nothing else has splits. Raises UserError."""
    if not Path(data).is_dir():
        raise UserError(f"compositions needs a folder with composed-*.tar; data={data} is not one; set compositions=0")
    try:
        return list_shards(data, "composed")
    except UserError as error:
        raise UserError(f"{error}, or set compositions=0") from error
