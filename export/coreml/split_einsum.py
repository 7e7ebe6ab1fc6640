"""A U-Net as the Apple Neural Engine runs it: (B,C,1,S) tensors, 1x1 convolutions for linear layers, head by head.

Source: "Deploying Transformers on the Apple Neural Engine" (Apple, 2022); ml-stable-diffusion, attention.py, whose
second form also cuts the queries into chunks, so that no score matrix is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs import is_plain
from runtime.errors import UserError

QUERY_CHUNK = 512  # queries per chunk of SPLIT_EINSUM_V2, CHUNK_SIZE of attention.py


class SplitTransformer(nn.Module):
    """Computes what the wrapped diffusers Transformer2DModel computes, with its weights."""

    def __init__(self, transformer: Any, query_chunk: int) -> None:
        super().__init__()
        self.inner = transformer
        self.query_chunk = query_chunk

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> tuple[Tensor]:
        """hidden_states [B,C,h,w], encoder_hidden_states [B,T,H] -> ([B,C,h,w],)."""
        batch, _channels, height, width = hidden_states.shape
        hidden = pointwise(self.inner.proj_in, self.inner.norm(hidden_states)).flatten(2).unsqueeze(2)
        context = None if encoder_hidden_states is None else sequence_last(encoder_hidden_states)
        for block in self.inner.transformer_blocks:
            hidden = self.run_block(block, hidden, context)
        hidden = hidden.reshape(batch, -1, height, width)
        return (pointwise(self.inner.proj_out, hidden) + hidden_states,)

    def run_block(self, block: Any, hidden: Tensor, context: Tensor | None) -> Tensor:
        """Self-attention, cross-attention, feed-forward; hidden [B,C,1,S], context [B,H,1,T]."""
        first = context if block.only_cross_attention else None
        hidden = hidden + self.attend(block.attn1, channel_norm(block.norm1, hidden), first)
        if block.attn2 is not None:
            hidden = hidden + self.attend(block.attn2, channel_norm(block.norm2, hidden), context)
        gated, gate = pointwise(block.ff.net[0].proj, channel_norm(block.norm3, hidden)).chunk(2, dim=1)
        return hidden + pointwise(block.ff.net[2], gated * F.gelu(gate))

    def attend(self, attn: Any, hidden: Tensor, context: Tensor | None) -> Tensor:
        """A diffusers Attention with its projections."""
        source = hidden if context is None else context
        query = pointwise(attn.to_q, hidden) * attn.scale
        key, value = pointwise(attn.to_k, source), pointwise(attn.to_v, source)
        return pointwise(attn.to_out[0], attention(query, key, value, attn.heads, self.query_chunk))


class SplitTextEmbedding(nn.Module):
    """Computes what the wrapped diffusers TextTimeEmbedding computes: text states [B,T,H] -> [B,E]."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.inner = embedding

    def forward(self, states: Tensor) -> Tensor:
        pool = self.inner.pool
        hidden = channel_norm(self.inner.norm1, sequence_last(states))
        token = hidden.mean(3, keepdim=True) + pool.positional_embedding[:, :, None, None]
        hidden = torch.cat([token, hidden], dim=3)
        query = pointwise(pool.q_proj, token) * pool.dim_per_head**-0.5
        key, value = pointwise(pool.k_proj, hidden), pointwise(pool.v_proj, hidden)
        pooled = attention(query, key, value, pool.num_heads, 1)
        return channel_norm(self.inner.norm2, pointwise(self.inner.proj, pooled)).flatten(1)


class PointwiseLinear(nn.Module):
    """Computes what the wrapped nn.Linear computes on [B,C]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.inner = linear

    def forward(self, hidden: Tensor) -> Tensor:
        return pointwise(self.inner, hidden[:, :, None, None]).flatten(1)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, query_chunk: int) -> Tensor:
    """Attention computed head by head, query_chunk queries at a time; scores [B,T,1,S], softmax over T.

    query [B,C,1,S], already scaled; key and value [B,C,1,T] -> [B,C,1,S].
    """
    size = query.shape[1] // heads
    key = key.transpose(1, 3)
    found = []
    for start in range(0, query.shape[1], size):
        part = slice(start, start + size)
        rows = []
        for first in range(0, query.shape[3], query_chunk):
            some = query[:, part, :, first : first + query_chunk]
            scores = torch.einsum("bkhc,bchq->bkhq", key[..., part], some)
            rows.append(torch.einsum("bchk,bkhq->bchq", value[:, part], torch.softmax(scores, dim=1)))
        found.append(joined(rows, 3))
    return joined(found, 1)


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """One tensor of several."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def sequence_last(states: Tensor) -> Tensor:
    """[B,T,H] -> [B,H,1,T]."""
    return states.transpose(1, 2).unsqueeze(2)


def pointwise(layer: Any, hidden: Tensor) -> Tensor:
    """A linear layer (or 1x1 convolution) over the channels of [B,C,...]."""
    weight = layer.weight if layer.weight.ndim == 4 else layer.weight[:, :, None, None]
    return F.conv2d(hidden, weight, layer.bias)


def channel_norm(norm: nn.LayerNorm, hidden: Tensor) -> Tensor:
    """LayerNorm over axis 1 of [B,C,1,S]."""
    centred = hidden - hidden.mean(1, keepdim=True)
    scaled = centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + norm.eps)
    return scaled * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


@contextmanager
def split_einsum(unet: Any, query_chunk: int | None = None) -> Iterator[None]:
    """Within the block the U-Net has no linear layers or matrix products; afterwards it has its own modules again.

    query_chunk: the most queries in one score matrix; unlimited when left out. Raises UserError that names the
    block which cannot be written this way.
    """
    found = list(replacements(unet, query_chunk or 2**31))
    try:
        for parent, name, _, form in found:
            setattr(parent, name, form)
        yield
    finally:
        for parent, name, child, _ in found:
            setattr(parent, name, child)


def replacements(parent: Any, query_chunk: int, path: str = "") -> Iterator[tuple[Any, str, nn.Module, nn.Module]]:
    """(parent, name, child, replacement) for each module that has a split form."""
    for name, child in parent.named_children():
        here = f"{path}{name}"
        form = split_form(child, here, query_chunk)
        if form is None:
            yield from replacements(child, query_chunk, f"{here}.")
        else:
            yield parent, name, child, form


def split_form(module: Any, name: str, query_chunk: int) -> nn.Module | None:
    """The split form of a module; None where it needs none. Raises UserError where there is none."""
    from diffusers.models import Transformer2DModel
    from diffusers.models.attention_processor import Attention
    from diffusers.models.embeddings import TextTimeEmbedding

    if isinstance(module, Transformer2DModel):
        why = unsplittable(module)
        if why is None:
            return SplitTransformer(module, query_chunk)
    elif isinstance(module, TextTimeEmbedding):
        return SplitTextEmbedding(module)
    elif isinstance(module, Attention):
        why = "an attention outside a transformer block"
    else:
        return PointwiseLinear(module) if isinstance(module, nn.Linear) else None
    raise UserError(f"{name} of this U-Net has no SPLIT_EINSUM form ({why}): use --attention-implementation ORIGINAL")


def unsplittable(transformer: Any) -> str | None:
    """Why SplitTransformer would not compute what this Transformer2DModel computes; None where it would."""
    if not transformer.is_input_continuous:
        return "its input is not a feature map"
    for block in transformer.transformer_blocks:
        if block.norm_type != "layer_norm" or not isinstance(block.norm1, nn.LayerNorm):
            return f"its norm is {block.norm_type}"
        if block.pos_embed is not None or getattr(block, "fuser", None) is not None:
            return "it has position embeddings or gated attention"
        if type(block.ff.net[0]).__name__ != "GEGLU":
            return f"its feed-forward is {type(block.ff.net[0]).__name__}"
        if not all(is_plain(attn) for attn in (block.attn1, block.attn2) if attn is not None):
            return "its attention has norms, residuals or added projections"
    return None
