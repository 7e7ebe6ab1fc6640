"""Encodes pictures and captions into what the U-Net sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast

from runtime.errors import UserError
from runtime.pixels import from_image, to_uint8
from runtime.tokenizer.vocabulary import MAX_TOKENS
from train.latents import Autoencoder, downscale
from train.progress import progress

Advance = Callable[[int], None]
SAMPLED = 1024  # values of each weight that a fingerprint reads


@dataclass(frozen=True)
class Encoders:
    """How pictures and captions become what the U-Net sees. Raises UserError when the size does not fit the VAE."""

    vae: Autoencoder
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer | CLIPTokenizerFast
    image_size: int  # side in pixels
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.image_size % downscale(self.vae):
            raise UserError(f"image_size={self.image_size}: the autoencoder needs a multiple of {downscale(self.vae)}")
        for network in (self.vae, self.text_encoder):
            network.to(self.device).eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // downscale(self.vae)
        return int(self.vae.config.latent_channels), side, side

    @property
    def batch(self) -> int:
        """Pictures per call of the autoencoder, whose memory use grows with their pixels."""
        return max(1, 64 * 128**2 // self.image_size**2)

    def captions(self, texts: Sequence[str], advance: Advance = lambda count: None) -> tuple[Tensor, Tensor]:
        """(states bf16[T, 77, D], pooled bf16[T, D]) of captions, on the device."""
        return encode_captions(self.text_encoder, self.tokenizer, texts, advance=advance, dtype=torch.bfloat16)

    @cached_property
    def picture_mark(self) -> str:
        """A hash of everything but the picture that determines its latents."""
        return f"{fingerprint(self.vae)} {self.image_size}"

    @cached_property
    def text_mark(self) -> str:
        """A hash of everything but the caption that determines its states."""
        return f"{fingerprint(self.text_encoder)} {fingerprint_tokenizer(self.tokenizer)}"


def fit_picture(picture: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """A picture as `picture_of` returns it -> f32[3, size, size] in [-1, 1].

    Another size is scaled to cover the square (Lanczos) and centre-cropped; transparency becomes white.
    """
    if isinstance(picture, np.ndarray):
        if picture.shape[:2] == (size, size):
            return picture.transpose(2, 0, 1)
        picture = Image.fromarray(to_uint8(picture))
    return from_image(picture, (size, size))


def token_ids(tokenizer: CLIPTokenizer | CLIPTokenizerFast, texts: Sequence[str]) -> Tensor:
    """i64[T, 77] of the texts, padded as all common pipelines pad them; longer ones are cut."""
    given = tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: Tensor = given.input_ids
    return ids


@torch.no_grad()
def encode_captions(
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer | CLIPTokenizerFast,
    texts: Sequence[str],
    batch: int = 64,
    advance: Advance = lambda count: None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """(last hidden states [T, 77, D], pooled [T, D]) of the texts, padded as all common pipelines pad them.

    Both of `dtype` and on the text encoder's device. Pooled: the state at the first end-of-text token.
    """
    tokens = (token_ids(tokenizer, texts[start : start + batch]) for start in range(0, len(texts), batch))
    return _encode(text_encoder, tokens, len(texts), advance, dtype)


@torch.no_grad()
def encode_ids(
    text_encoder: CLIPTextModel, ids: Tensor, batch: int = 64, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """As `encode_captions`, of tokens i64[T, 77]."""
    return _encode(text_encoder, ids.split(batch), len(ids), lambda count: None, dtype)


def _encode(
    text_encoder: CLIPTextModel, batches: Iterable[Tensor], count: int, advance: Advance, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    width, device = text_encoder.config.hidden_size, text_encoder.device
    rows = getattr(text_encoder.config, "rows", MAX_TOKENS)  # of two encoders: `second_text`
    states = torch.empty(count, rows, width, dtype=dtype, device=device)
    pooled = torch.empty(count, width, dtype=dtype, device=device)
    start = 0
    for ids in batches:
        part = slice(start, start := start + len(ids))
        encoded = text_encoder(ids.to(device))
        states[part], pooled[part] = encoded.last_hidden_state, encoded.pooler_output
        advance(len(ids))
    return states, pooled


def encode_texts(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer | CLIPTokenizerFast, texts: list[str], batch: int = 64
) -> Tensor:
    """Last hidden states f32[N, 77, D] of the texts, with a progress bar."""
    with progress("text embeddings", len(texts)) as advance:
        return encode_captions(text_encoder, tokenizer, texts, batch, advance)[0]


def fingerprint(network: nn.Module) -> str:
    """A hash that changes with the network's settings and weights.

    It reads 1,024 evenly spaced values of every weight, so a text encoder of 866 M costs a fraction of a second.
    """
    digest = hashlib.sha256(json.dumps(_settings(network), sort_keys=True, default=str).encode())
    for name, weight in network.state_dict().items():
        flat = weight.detach().reshape(-1)
        sampled = flat[:: max(1, len(flat) // SAMPLED)].double().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + sampled.tobytes())
    return digest.hexdigest()[:16]


def _settings(network: nn.Module) -> dict[str, object]:
    """A network's configuration without what depends on where and by which version it was saved."""
    config = getattr(network, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    volatile = ("transformers_version", "torch_dtype", "dtype", "architectures")
    return {key: value for key, value in values.items() if not key.startswith("_") and key not in volatile}


def fingerprint_tokenizer(tokenizer: CLIPTokenizer | CLIPTokenizerFast) -> str:
    """A hash of the vocabulary and of what the merges make of a sentence."""
    probe = tokenizer("A photograph of the red fox's 3 cats, in watercolour!").input_ids
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr((vocabulary, probe)).encode()).hexdigest()[:16]
