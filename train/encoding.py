"""Pictures and captions to what the U-Net sees, and latents back to pictures, for either kind of autoencoder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast

from runtime.pixels import from_image, to_uint8
from train.errors import UserError
from train.progress import progress

Autoencoder: TypeAlias = AutoencoderTiny | AutoencoderKL
Advance = Callable[[int], None]
LOG = logging.getLogger("train.data")
MAX_TOKENS = 77
SAMPLED = 1024  # values of each weight that a fingerprint looks at


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
        """Pictures a call of the autoencoder: its memory grows with their pixels."""
        return max(1, 64 * 128**2 // self.image_size**2)

    def captions(self, texts: Sequence[str], advance: Advance = lambda count: None) -> tuple[Tensor, Tensor]:
        """(states bf16[T, 77, D], pooled bf16[T, D]) of captions, on the device."""
        return encode_captions(self.text_encoder, self.tokenizer, texts, advance=advance, dtype=torch.bfloat16)

    @cached_property
    def picture_mark(self) -> str:
        """A hash of all that decides a picture's latents but the picture."""
        return f"{fingerprint(self.vae)} {self.image_size}"

    @cached_property
    def text_mark(self) -> str:
        """A hash of all that decides a caption's states but the caption."""
        return f"{fingerprint(self.text_encoder)} {fingerprint_tokenizer(self.tokenizer)}"


def downscale(vae: Autoencoder) -> int:
    """Pixels a latent, along one side."""
    config = vae.config
    return 2 ** (len(getattr(config, "encoder_block_out_channels", None) or config.block_out_channels) - 1)


def to_tensor(pictures: np.ndarray) -> Tensor:
    """u8[N, H, W, 3] -> f32[N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit_picture(picture: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """A picture as `picture_of` returns it -> f32[3, size, size] in [-1, 1].

    Another size is scaled to cover the square (Lanczos) and cut about its middle; transparency becomes white.
    """
    if isinstance(picture, np.ndarray):
        if picture.shape[:2] == (size, size):
            return picture.transpose(2, 0, 1)
        picture = Image.fromarray(to_uint8(picture))
    return from_image(picture, (size, size))


@torch.no_grad()
def encode_latents(vae: Autoencoder, pictures: Tensor) -> Tensor:
    """Latents f32[B, C, h, w] as the U-Net expects them, of f32[B, 3, H, W] in [-1, 1]; of a KL posterior, its mode."""
    weight = next(vae.parameters())
    encoded = vae.encode(pictures.to(weight.device, weight.dtype))
    latents = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
    return (latents.float() - _shift(vae)) * vae.config.scaling_factor


def decode_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Pictures f32[B, 3, H, W], nominally in [-1, 1] and not clamped, of latents as the U-Net makes them.

    Gradients flow through it.
    """
    weight = next(vae.parameters())
    unscaled = latents / vae.config.scaling_factor + _shift(vae)
    return vae.decode(unscaled.to(weight.dtype)).sample.float()


def _shift(vae: Autoencoder) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def encode_all(vae: Autoencoder, pictures: np.ndarray, batch: int = 64) -> Tensor:
    """Latents f32[N, C, H/8, W/8], on the CPU, of u8[N, H, W, 3]."""
    parts = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    return torch.cat([encode_latents(vae, to_tensor(part)).cpu() for part in parts])


@torch.no_grad()
def encode_captions(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer | CLIPTokenizerFast, texts: Sequence[str], batch: int = 64,
    advance: Advance = lambda count: None, dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """(last hidden states [T, 77, D], pooled [T, D]) of the texts, padded as every pipeline of the field pads them.

    Both of `dtype` and on the text encoder's device. Pooled: the state at the first end-of-text token.
    """
    width = text_encoder.config.hidden_size
    states = torch.empty(len(texts), MAX_TOKENS, width, dtype=dtype, device=text_encoder.device)
    pooled = torch.empty(len(texts), width, dtype=dtype, device=text_encoder.device)
    for start in range(0, len(texts), batch):
        ids = tokenizer(
            list(texts[start : start + batch]), padding="max_length", max_length=MAX_TOKENS, truncation=True,
            return_tensors="pt",
        ).input_ids
        encoded = text_encoder(ids.to(text_encoder.device))
        states[start : start + batch], pooled[start : start + batch] = encoded.last_hidden_state, encoded.pooler_output
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

    Of every weight it reads 1,024 values spread evenly, so that a text encoder of 866 M costs a fraction of a second.
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


def write_tensors(path: Path | None, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a cache file whole or not at all (not without a path). Raises UserError when it cannot be written."""
    if path is None:
        return
    text = json.dumps(facts)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        save_file(tensors, partial, {"facts": text, "checksum": _checksum(tensors, text)})
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the cache file {path} cannot be written: {error}; free space or move the run") from error
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, facts) of a cache file; None when there is none, or when it is not as it was written."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            marks = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        if marks["checksum"] == _checksum(tensors, marks["facts"]):
            return tensors, json.loads(marks["facts"])
    except (OSError, SafetensorError, KeyError, TypeError):
        pass
    LOG.warning("the cache file %s is damaged and is made again", path)
    return None


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    value = zlib.crc32(text.encode())
    for _, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
