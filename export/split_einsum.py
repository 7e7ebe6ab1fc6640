"""Transformers of a U-Net as the Apple Neural Engine runs them: (B,C,1,S) tensors, one head at a time.

Source: "Deploying Transformers on the Apple Neural Engine" (Apple, 2022): channels first, 1x1 convolutions
for linear layers, attention split by head with einsum, sequence last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs import is_plain
from train.errors import UserError


class SplitTransformer(nn.Module):
    """Computes what the wrapped diffusers Transformer2DModel computes, with its weights."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.inner = transformer

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        """hidden_states [B,C,h,w], encoder_hidden_states [B,T,H] -> ([B,C,h,w],)."""
        batch, _channels, height, width = hidden_states.shape
        hidden = pointwise(self.inner.proj_in, self.inner.norm(hidden_states)).flatten(2).unsqueeze(2)
        states = encoder_hidden_states
        context = None if states is None else states.transpose(1, 2).unsqueeze(2)
        for block in self.inner.transformer_blocks:
            hidden = run_block(block, hidden, context)
        hidden = hidden.reshape(batch, -1, height, width)
        return (pointwise(self.inner.proj_out, hidden) + hidden_states,)


def run_block(block: Any, hidden: Tensor, context: Tensor | None) -> Tensor:
    """Self-attention, cross-attention, feed-forward; hidden [B,C,1,S], context [B,H,1,T]."""
    first = context if block.only_cross_attention else None
    hidden = hidden + attend(block.attn1, channel_norm(block.norm1, hidden), first)
    if block.attn2 is not None:
        hidden = hidden + attend(block.attn2, channel_norm(block.norm2, hidden), context)
    gated, gate = pointwise(block.ff.net[0].proj, channel_norm(block.norm3, hidden)).chunk(2, dim=1)
    return hidden + pointwise(block.ff.net[2], gated * F.gelu(gate))


def attend(attn: Any, hidden: Tensor, context: Tensor | None) -> Tensor:
    """Attention head by head; scores [B,T,1,S], softmax over T."""
    source = hidden if context is None else context
    query, value = pointwise(attn.to_q, hidden), pointwise(attn.to_v, source)
    key = pointwise(attn.to_k, source).transpose(1, 3)
    size = query.shape[1] // attn.heads
    heads = []
    for start in range(0, query.shape[1], size):
        part = slice(start, start + size)
        scores = torch.einsum("bkhc,bchq->bkhq", key[..., part], query[:, part] * attn.scale)
        heads.append(torch.einsum("bchk,bkhq->bchq", value[:, part], torch.softmax(scores, dim=1)))
    return pointwise(attn.to_out[0], torch.cat(heads, dim=1))


def pointwise(layer: Any, hidden: Tensor) -> Tensor:
    """A linear layer (or 1x1 convolution) over the channels of [B,C,...]."""
    weight = layer.weight if layer.weight.ndim == 4 else layer.weight[:, :, None, None]
    return F.conv2d(hidden, weight, layer.bias)


def channel_norm(norm: nn.LayerNorm, hidden: Tensor) -> Tensor:
    """LayerNorm over axis 1 of [B,C,1,S]."""
    centred = hidden - hidden.mean(1, keepdim=True)
    scaled = centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + norm.eps)
    return scaled * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def is_splittable(transformer: Any) -> bool:
    """Whether SplitTransformer computes what this Transformer2DModel computes."""
    blocks = transformer.transformer_blocks
    attentions = [attn for block in blocks for attn in (block.attn1, block.attn2) if attn is not None]
    plain = transformer.is_input_continuous and all(is_plain(attn) for attn in attentions)
    return plain and all(
        block.norm_type == "layer_norm"
        and type(block.ff.net[0]).__name__ == "GEGLU"
        and isinstance(block.norm1, nn.LayerNorm)
        and block.pos_embed is None
        for block in blocks
    )


@contextmanager
def split_einsum(unet: Any) -> Iterator[None]:
    """Within the block the U-Net's transformers are SplitTransformers; afterwards its own again.

    Raises UserError when it has a transformer that cannot be written so.
    """
    from diffusers.models import Transformer2DModel

    found = [
        (parent, name, child)
        for parent in list(unet.modules())
        for name, child in parent.named_children()
        if isinstance(child, Transformer2DModel)
    ]
    if not all(is_splittable(child) for _, _, child in found):
        raise UserError("this U-Net has no SPLIT_EINSUM form: use --attention-implementation ORIGINAL")
    try:
        for parent, name, child in found:
            setattr(parent, name, SplitTransformer(child))
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)
