"""SDXL in the trainers: its two text encoders as one, and a U-Net that takes what they give as one array.

Trainers carry a text as states [T, 77, D] and call a U-Net with (x, timesteps, text). SDXL's U-Net takes the text as
one more row and the picture's sizes too: here that row travels as the last one of the states, padded with zeros to
their width, and `ToldUNet` takes it apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from runtime.tokenizer.vocabulary import MAX_TOKENS
from train.families import Kind

SIZES = 6  # original height and width, crop, height and width


def takes_second_text(unet: UNet2DConditionModel) -> bool:
    """Whether a U-Net takes pooled text and sizes, as SDXL's does."""
    return unet.config.get("addition_embed_type") == "text_time"


def text_rows(unet: UNet2DConditionModel) -> int:
    """Rows of a text as trainers carry it."""
    return MAX_TOKENS + takes_second_text(unet)


class ToldUNet(UNet2DConditionModel):  # type: ignore[misc]  # diffusers has no types
    """SDXL's U-Net, whose text is f32[B, 78, D]: states, and in the last row the pooled text. Sizes are its input's."""

    pixels_per_latent = 8

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *args: Any, **more: Any) -> Any:
        states, row = encoder_hidden_states[:, :-1], encoder_hidden_states[:, -1]
        height, width = (side * self.pixels_per_latent for side in sample.shape[2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=row.dtype, device=row.device)
        added = {"text_embeds": row[:, : pooled_width(self)], "time_ids": sizes.expand(len(row), -1)}
        return super().forward(sample, timestep, states, *args, added_cond_kwargs=added, **more)


def told(unet: UNet2DConditionModel, pixels_per_latent: int = 8) -> UNet2DConditionModel:
    """The same network, as a `ToldUNet` where it takes second texts; its weights and configuration stay."""
    if takes_second_text(unet):
        unet.__class__ = ToldUNet
        unet.pixels_per_latent = pixels_per_latent
    return unet


def plain(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network as diffusers' own class, to be saved."""
    if isinstance(unet, ToldUNet):
        unet.__class__ = UNet2DConditionModel
    return unet


def pooled_width(unet: UNet2DConditionModel) -> int:
    """Numbers of the pooled text that SDXL's U-Net takes."""
    config = unet.config
    return int(config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim)


class TwoTokenizers:
    """Two tokenizers as one, whose ids stand side by side: i64[T, 154]."""

    def __init__(self, tokenizers: Sequence[Any]) -> None:
        self.tokenizers = tuple(tokenizers)

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        found = [one(texts, **options).input_ids for one in self.tokenizers]
        if isinstance(found[0], Tensor):
            return SimpleNamespace(input_ids=torch.cat(found, dim=1))
        return SimpleNamespace(input_ids=[token for ids in found for token in ids])

    def get_vocab(self) -> dict[str, int]:
        """Both vocabularies."""
        return {f"{i} {token}": at for i, one in enumerate(self.tokenizers) for token, at in one.get_vocab().items()}


class TwoEncoders(nn.Module):
    """SDXL's text encoders as one: ids i64[T, 154] -> last_hidden_state [T, 78, D] and pooler_output [T, D].

    The states are those before the last layer, joined along their width; the last row is the pooled text of the second
    encoder, as is pooler_output. zeros: an empty text is zeros, as SDXL was trained and diffusers guides it.
    """

    def __init__(self, encoders: Sequence[nn.Module], zeros: bool) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.zeros = zeros
        self._configs: list[Any] = [one.config for one in encoders]
        width = sum(int(config.hidden_size) for config in self._configs)
        self.config = SimpleNamespace(hidden_size=width, rows=MAX_TOKENS + 1, to_dict=self._settings)

    def _settings(self) -> dict[str, Any]:
        return {"encoders": [config.to_dict() for config in self._configs], "zeros": self.zeros}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, ids: Tensor) -> Any:
        parts = ids.chunk(len(self.encoders), dim=1)
        made = [one(part, output_hidden_states=True) for one, part in zip(self.encoders, parts, strict=True)]
        states = torch.cat([one.hidden_states[-2] for one in made], dim=-1)
        row = F.pad(made[-1].text_embeds, (0, states.shape[-1] - made[-1].text_embeds.shape[-1]))
        if self.zeros:  # the end mark is the largest id, and in an empty text the second token
            said = (parts[0].argmax(dim=1) > 1)[:, None]
            states, row = states * said[..., None], row * said
        return SimpleNamespace(last_hidden_state=torch.cat([states, row[:, None]], dim=1), pooler_output=row)


def second_text(pipeline: Any, kind: Kind) -> dict[str, Any]:
    """What `save_pipeline` needs of a pipeline's second text encoder; {} where there is none."""
    if not kind.second_text:
        return {}
    parts = {name: getattr(pipeline, name) for pair in [*kind.encoders.items()][1:] for name in pair}
    return parts | {"force_zeros_for_empty_prompt": pipeline.config.force_zeros_for_empty_prompt}


def text_parts(pipeline: Any, kind: Kind) -> tuple[Any, Any]:
    """(text encoder, tokenizer) of a pipeline as trainers use them: SDXL's two of each as one."""
    if not kind.second_text:
        return pipeline.text_encoder, pipeline.tokenizer
    encoders = [getattr(pipeline, name) for name in kind.encoders]
    tokenizers = [getattr(pipeline, name) for name in kind.encoders.values()]
    return TwoEncoders(encoders, bool(pipeline.config.force_zeros_for_empty_prompt)), TwoTokenizers(tokenizers)
