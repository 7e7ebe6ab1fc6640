"""The modules as Apple's loaders expect them: batch 1, their names, layouts and conventions.

Apple's Python and Swift pipelines take epsilon from the U-Net and divide latents by 0.18215 before the
decoder, whatever the model: these graphs turn v into epsilon and undo the division.
Source: ml-stable-diffusion, torch2coreml.py and pipeline.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs import DecoderGraph, TextEncoderGraph, UNetGraph
from export.source import MAX_TOKENS, Source

APPLE_SCALING = 0.18215  # by which Apple's loaders divide latents, for every model


@dataclass(frozen=True)
class Part:
    """One module to convert: inputs as (name, example, dtype of the port); names of the outputs, all f32."""

    name: str
    module: nn.Module
    inputs: tuple[tuple[str, Tensor, type[np.generic]], ...]
    outputs: tuple[str, ...]


class AppleTextEncoder(nn.Module):
    """input_ids f32[1,77] -> last_hidden_state f32[1,77,H], pooled_outputs f32[1,H]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = TextEncoderGraph(model)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, pooled = self.inner(input_ids.to(torch.int32))
        return hidden, pooled


class AppleUNet(nn.Module):
    """sample[1,C,h,w], timestep[1], encoder_hidden_states[1,H,1,77] -> noise_pred f32[1,C,h,w]: epsilon.

    v of a U-Net trained on it becomes epsilon = sigma * x + alpha * v, with alpha and sigma of the timestep.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.inner = UNetGraph(source.pipe.unet)
        self.predicts_v = source.prediction_type == "v_prediction"
        alpha, sigma = (torch.from_numpy(level).float() for level in source.levels)
        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("sigma", sigma, persistent=False)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        output: Tensor = self.inner(sample, timestep, states)
        if not self.predicts_v:
            return output
        index = timestep.to(torch.int32)
        alpha, sigma = self.alpha[index], self.sigma[index]
        return sigma.reshape(1, 1, 1, 1) * sample + alpha.reshape(1, 1, 1, 1) * output


class AppleDecoder(nn.Module):
    """z[1,C,h,w], latents divided by 0.18215 -> image f32[1,3,H,W] in [-1,1]."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.inner = DecoderGraph(source.pipe.vae)
        self.scale = APPLE_SCALING / source.scaling_factor

    def forward(self, z: Tensor) -> Tensor:
        return self.inner(z * self.scale)  # type: ignore[no-any-return]


def parts(source: Source) -> Iterator[Part]:
    """The modules of a checkpoint, smallest first."""
    pipe = source.pipe
    latents = torch.zeros(1, *source.latent_shape)
    states = torch.zeros(1, pipe.text_encoder.config.hidden_size, 1, MAX_TOKENS)
    half = np.float16
    yield Part("vae_decoder", AppleDecoder(source), (("z", latents, half),), ("image",))
    ids = torch.full((1, MAX_TOKENS), 1.0)
    text = AppleTextEncoder(pipe.text_encoder)
    outputs = ("last_hidden_state", "pooled_outputs")
    yield Part("text_encoder", text, (("input_ids", ids, np.float32),), outputs)
    inputs = (
        ("sample", latents, half),
        ("timestep", torch.full((1,), 999.0), half),
        ("encoder_hidden_states", states, half),
    )
    yield Part("unet", AppleUNet(source), inputs, ("noise_pred",))
