"""What every diffusion stage trains on: latents and text embeddings, computed once and kept in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizerFast

from train.autoencoder import encode_all
from train.progress import progress
from train.shards import Record, read_records


@dataclass
class Corpus:
    """Captioned latents of one split. Texts are stored once, in `text_states`, and referred to by row."""

    records: list[Record]
    latents: Tensor  # bf16[N, C, h, w]
    caption_rows: list[list[int]]  # for each picture, the rows of its captions; the plainest first
    text_states: Tensor  # bf16[T, 77, D]; row 0 is the empty caption

    def batch(self, index: np.ndarray, rng: np.random.Generator, drop_text: float) -> tuple[Tensor, Tensor, Tensor]:
        """(latents f32[B, C, h, w], text states f32[B, 77, D], text rows i64[B]) of the given pictures.

        Half of the time the plainest caption, else any of the others; the empty one with probability drop_text.
        """
        rows = [self._caption(int(i), rng, drop_text) for i in index]
        return self.latents[index].float(), self.text_states[rows].float(), torch.tensor(rows)

    def _caption(self, index: int, rng: np.random.Generator, drop_text: float) -> int:
        if rng.random() < drop_text:
            return 0
        rows = self.caption_rows[index]
        return rows[0] if rng.random() < 0.5 else rows[int(rng.integers(len(rows)))]

    def draw(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of `batch` pictures, by weight."""
        return rng.choice(len(self.records), size=batch, p=self.probabilities)

    @cached_property
    def probabilities(self) -> np.ndarray:
        weights = np.array([record.weight for record in self.records])
        return weights / weights.sum()


def load_pictures(data: Path, split: str) -> tuple[list[Record], np.ndarray]:
    """(records, u8[N, H, W, 3]) of a split, near-duplicates left out."""
    kept = [(record, picture) for record, picture in read_records(data, split) if record.weight > 0]
    return [record for record, _ in kept], np.stack([picture for _, picture in kept])


def load_corpus(
    data: Path, split: str, vae: AutoencoderTiny, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizerFast,
    cache: Path | None = None,
) -> Corpus:
    """Encode a split's pictures and captions. With `cache`, encodings are kept there and read back next time.

    The cache file is named after the records and the networks' weights, so that a change makes a new one.
    """
    records, pictures = load_pictures(data, split)
    texts = [""] + sorted({caption for record in records for caption in record.captions})
    rows = {text: row for row, text in enumerate(texts)}
    caption_rows = [[rows[caption] for caption in record.captions] for record in records]
    path = cache / f"{split}-{_fingerprint(records, vae, text_encoder)}.safetensors" if cache else None
    if path is not None and path.is_file():
        tensors = load_file(path)
        return Corpus(records, tensors["latents"], caption_rows, tensors["text_states"])
    latents = encode_all(vae, pictures).contiguous().bfloat16()
    states = encode_texts(text_encoder, tokenizer, texts).contiguous().bfloat16()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"latents": latents, "text_states": states}, partial)
        partial.replace(path)
    return Corpus(records, latents, caption_rows, states)


@torch.no_grad()
def encode_texts(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizerFast, texts: list[str], batch: int = 64
) -> Tensor:
    """Last hidden states f32[N, 77, D] of the texts, padded as every pipeline of the field pads them."""
    parts = []
    with progress("text embeddings", len(texts)) as advance:
        for start in range(0, len(texts), batch):
            ids = tokenizer(
                texts[start : start + batch], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
            ).input_ids
            parts.append(text_encoder(ids).last_hidden_state)
            advance(len(ids))
    return torch.cat(parts)


def _fingerprint(records: list[Record], vae: AutoencoderTiny, text_encoder: CLIPTextModel) -> str:
    digest = hashlib.sha256(repr([(record.key, record.captions) for record in records]).encode())
    for model in (vae.encoder, text_encoder):
        for parameter in model.parameters():
            digest.update(parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()[:16]
