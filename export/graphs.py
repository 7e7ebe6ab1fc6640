"""The modules as exporters trace them: plain tensors in, plain tensors out, no data-dependent branches.

Each graph wraps a module of a diffusers pipeline without copying its weights, and has nothing that half
precision spoils: the attention mask is -1e4 (not -inf) and queries are scaled before the product. Attention is
an argument: plain operators for Core ML, one operator (`fused_attention`) for ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MASKED = -1e4  # exp(MASKED) is 0 in fp32 and fp16 alike, and MASKED itself is finite in fp16
Attention = Callable[..., Tensor]  # see `plain_attention`
PARAMETERS = "latent_parameters"  # a variational encoder's output: mean and log-variance
LEGACY_EOS = 2  # transformers: a text encoder with this id in its config pools at the largest id


def text_roots(model: Any, component: str) -> list[tuple[str, nn.Module]]:
    """The modules of a CLIP text encoder, by names that are unique among a checkpoint's two."""
    name = component.replace("text_encoder", "text")  # text, text_2
    projection = getattr(model, "text_projection", None)
    return [(name, model.text_model), *([] if projection is None else [(f"{name}_projection", projection)])]


class TextEncoderGraph(nn.Module):
    """input_ids i64[B,T] -> last_hidden_state f32[B,T,H], pooler_output f32[B,H]: CLIP's text transformer.

    An encoder with a projection gives text_embeds f32[B,P] first and no pooler_output. With every_layer the states
    before each layer follow, hidden_states.0 and on, as optimum's exports have them.
    """

    mask: Tensor
    earlier_first: Tensor

    def __init__(
        self,
        model: Any,
        attention: Attention | None = None,
        component: str = "text_encoder",
        every_layer: bool = False,
    ) -> None:
        """attention: the function that computes it; `plain_attention` by default. component: names the nodes."""
        super().__init__()
        self.every_layer, self.projects = every_layer, hasattr(model, "text_projection")
        for name, module in text_roots(model, component):
            self.add_module(name, module)
        self.name = text_roots(model, component)[0][0]
        self.attention = attention or plain_attention
        self.eos = int(model.config.eos_token_id)
        length = int(model.config.max_position_embeddings)
        backwards = torch.arange(length, 0, -1, dtype=torch.int32)
        self.register_buffer("mask", torch.full((length, length), MASKED).triu(1), persistent=False)
        self.register_buffer("earlier_first", backwards, persistent=False)

    @property
    def root(self) -> Any:
        """CLIP's text transformer."""
        return self.get_submodule(self.name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        kept = len(self.root.encoder.layers) if self.every_layer else 0
        first = ("text_embeds", "last_hidden_state") if self.projects else ("last_hidden_state", "pooler_output")
        return (*first, *(f"hidden_states.{i}" for i in range(kept)))

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        text = self.root
        hidden = text.embeddings.token_embedding(input_ids) + text.embeddings.position_embedding.weight
        kept = []
        for layer in text.encoder.layers:
            kept.append(hidden)
            hidden = hidden + self.attend(layer.self_attn, layer.layer_norm1(hidden))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        hidden = text.final_layer_norm(hidden)
        pooled = self.pool(input_ids, hidden)
        first = (self.get_submodule(f"{self.name}_projection")(pooled), hidden) if self.projects else (hidden, pooled)
        return (*first, *kept) if self.every_layer else first

    def attend(self, attention: Any, hidden: Tensor) -> Tensor:
        """Causal self-attention of one layer, f32[B,T,H] -> f32[B,T,H]."""
        query, key, value = (project(hidden) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        found = self.attention(query, key, value, attention.num_heads, attention.scale, self.mask)
        return attention.out_proj(found)  # type: ignore[no-any-return]

    def pool(self, input_ids: Tensor, hidden: Tensor) -> Tensor:
        """The hidden state at the first <|endoftext|>, f32[B,H].

        Every score differs, so that no backend has to break a tie.
        """
        ids = input_ids.to(torch.int32)
        hit = ids if self.eos == LEGACY_EOS else (ids == self.eos).to(torch.int32)
        index = (hit * (len(self.earlier_first) + 1) + self.earlier_first).argmax(dim=-1)
        return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


class UNetGraph(nn.Module):
    """sample f32[B,C,h,w], timestep f32[], encoder_hidden_states f32[B,T,H] -> out_sample f32[B,C,h,w].

    SDXL's also takes text_embeds f32[B,P] and time_ids f32[B,6]. The output is what the U-Net was trained to predict
    (v or epsilon).
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        made = self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)
        return made[0]  # type: ignore[no-any-return]


class DecoderGraph(nn.Module):
    """latent_sample f32[B,C,h,w] -> sample f32[B,3,H,W], a picture in [-1,1] (before clamping)."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample, return_dict=False)[0]  # type: ignore[operator,no-any-return]


class EncoderGraph(nn.Module):
    """sample f32[B,3,H,W] in [-1,1] -> latent_sample f32[B,C,h,w].

    A variational autoencoder gives latent_parameters f32[B,2C,h,w] instead: mean and log-variance, from which diffusers
    draws where it starts from a picture. Both are the names of optimum and OpenVINO GenAI.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    @property
    def output(self) -> str:
        """The name of what it gives."""
        return PARAMETERS if hasattr(self.vae, "quant_conv") else "latent_sample"

    def forward(self, sample: Tensor) -> Tensor:
        encoded = self.vae.encode(sample, return_dict=False)[0]  # type: ignore[operator]
        return encoded if isinstance(encoded, Tensor) else encoded.parameters


def split_heads(hidden: Tensor, heads: int) -> Tensor:
    """[B,T,heads*d] -> [B,heads,T,d]."""
    return hidden.reshape(-1, hidden.shape[1], heads, hidden.shape[2] // heads).transpose(1, 2)


def merge_heads(hidden: Tensor) -> Tensor:
    """[B,heads,T,d] -> [B,T,heads*d]."""
    return hidden.transpose(1, 2).flatten(2)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float, causal_mask: Tensor | None = None
) -> Tensor:
    """Attention [B,S,heads*d], [B,T,heads*d] twice -> [B,S,heads*d]: two products around a softmax, on any backend.

    causal_mask: [S,T], added to the scores.
    """
    query, key, value = (split_heads(part, heads) for part in (query * scale, key, value))
    scores = query @ key.transpose(-1, -2)
    scores = scores if causal_mask is None else scores + causal_mask
    return merge_heads(torch.softmax(scores, dim=-1) @ value)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float, causal_mask: Tensor | None = None
) -> Tensor:
    """The same as one com.microsoft MultiHeadAttention, which keeps no scores in memory; only for tracing to ONNX.

    Only the presence of causal_mask matters.
    """
    causal = int(causal_mask is not None)
    attributes: dict[str, Any] = {"num_heads": heads, "scale": float(scale), "unidirectional": causal}
    operator = "com.microsoft::MultiHeadAttention"
    return torch.onnx.ops.symbolic(
        operator, (query, key, value), attributes, dtype=query.dtype, shape=query.shape, version=1
    )


class AttentionBy:
    """A diffusers attention processor that computes attention by the given function."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        found = self.attention(query, key, value, attn.heads, attn.scale)
        return attn.to_out[0](found)  # type: ignore[no-any-return]


def is_plain(attn: Any) -> bool:
    """Whether `AttentionBy` computes what this diffusers Attention computes."""
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    simple = all(getattr(attn, name, None) in (None, False) for name in extras)
    return simple and not attn.residual_connection and attn.rescale_output_factor == 1.0


@contextmanager
def attention_as(unet: Any, attention: Attention) -> Iterator[None]:
    """Within the block the U-Net's plain attentions are computed by `attention`; afterwards as before."""
    kept = {name: module for name, module in unet.named_modules() if hasattr(module, "processor")}
    before = {name: module.processor for name, module in kept.items()}
    try:
        for module in kept.values():
            if is_plain(module):
                module.processor = AttentionBy(attention)
        yield
    finally:
        for name, module in kept.items():
            module.processor = before[name]
