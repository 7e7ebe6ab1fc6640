"""The modules as exporters trace them: plain tensors in, plain tensors out, no branch that depends on data.

Each graph wraps a module of a diffusers pipeline without copying its weights, and holds nothing that half
precision spoils: the attention mask is -1e4 (not -inf) and queries are scaled before the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MASKED = -1e4  # exp(MASKED) is 0 in fp32 and fp16 alike, and MASKED itself is finite in fp16
LEGACY_EOS = 2  # transformers: a text encoder whose config says so pools at the largest id


class TextEncoderGraph(nn.Module):
    """input_ids i64[B,T] -> last_hidden_state f32[B,T,H], pooler_output f32[B,H]: CLIP's text transformer."""

    mask: Tensor
    earlier_first: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = model.text_model
        self.eos = int(model.config.eos_token_id)
        length = int(model.config.max_position_embeddings)
        backwards = torch.arange(length, 0, -1, dtype=torch.int32)
        self.register_buffer("mask", torch.full((length, length), MASKED).triu(1), persistent=False)
        self.register_buffer("earlier_first", backwards, persistent=False)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.text.embeddings
        hidden = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight
        for layer in self.text.encoder.layers:
            hidden = hidden + self.attend(layer.self_attn, layer.layer_norm1(hidden))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        hidden = self.text.final_layer_norm(hidden)
        return hidden, self.pool(input_ids, hidden)

    def attend(self, attention: Any, hidden: Tensor) -> Tensor:
        """Causal self-attention of one layer, f32[B,T,H] -> f32[B,T,H]."""
        heads = attention.num_heads
        query = split_heads(attention.q_proj(hidden) * attention.scale, heads)
        key, value = (split_heads(project(hidden), heads) for project in (attention.k_proj, attention.v_proj))
        scores = torch.softmax(query @ key.transpose(-1, -2) + self.mask, dim=-1)
        return attention.out_proj(merge_heads(scores @ value))  # type: ignore[no-any-return]

    def pool(self, input_ids: Tensor, hidden: Tensor) -> Tensor:
        """The hidden state at the first <|endoftext|>, f32[B,H].

        Every score differs, so that no backend has a tie to break.
        """
        ids = input_ids.to(torch.int32)
        hit = ids if self.eos == LEGACY_EOS else (ids == self.eos).to(torch.int32)
        index = (hit * (len(self.earlier_first) + 1) + self.earlier_first).argmax(dim=-1)
        return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


class UNetGraph(nn.Module):
    """sample f32[B,C,h,w], timestep f32[], encoder_hidden_states f32[B,T,H] -> out_sample f32[B,C,h,w].

    The output is what the U-Net was trained to predict (v or epsilon).
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]  # type: ignore[no-any-return]


class DecoderGraph(nn.Module):
    """latent_sample f32[B,C,h,w] -> sample f32[B,3,H,W], a picture in [-1,1] (before clamping)."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample, return_dict=False)[0]  # type: ignore[operator,no-any-return]


class EncoderGraph(nn.Module):
    """sample f32[B,3,H,W] in [-1,1] -> latent_sample f32[B,C,h,w]; of a variational autoencoder the mean."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        encoded = self.vae.encode(sample, return_dict=False)[0]  # type: ignore[operator]
        return encoded if isinstance(encoded, Tensor) else encoded.mode()


def split_heads(hidden: Tensor, heads: int) -> Tensor:
    """[B,T,heads*d] -> [B,heads,T,d]."""
    return hidden.reshape(-1, hidden.shape[1], heads, hidden.shape[2] // heads).transpose(1, 2)


def merge_heads(hidden: Tensor) -> Tensor:
    """[B,heads,T,d] -> [B,T,heads*d]."""
    return hidden.transpose(1, 2).flatten(2)


class PlainAttention:
    """Attention as two matrix products around a softmax, which every backend has and can fuse."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(attn.to_q(hidden_states) * attn.scale, attn.heads)
        key, value = split_heads(attn.to_k(context), attn.heads), split_heads(attn.to_v(context), attn.heads)
        scores = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        return attn.to_out[0](merge_heads(scores @ value))  # type: ignore[no-any-return]


def is_plain(attn: Any) -> bool:
    """Whether `PlainAttention` computes what this diffusers Attention computes."""
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    simple = all(getattr(attn, name, None) in (None, False) for name in extras)
    return simple and not attn.residual_connection and attn.rescale_output_factor == 1.0


@contextmanager
def attention_as(unet: Any, processor: Any) -> Iterator[None]:
    """Within the block the U-Net's plain attentions run `processor`; afterwards its own again."""
    kept = {name: module for name, module in unet.named_modules() if hasattr(module, "processor")}
    before = {name: module.processor for name, module in kept.items()}
    try:
        for module in kept.values():
            if is_plain(module):
                module.processor = processor
        yield
    finally:
        for name, module in kept.items():
            module.processor = before[name]
