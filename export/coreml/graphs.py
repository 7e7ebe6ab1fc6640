"""The modules as Apple's loaders expect them: batch 1, and Apple's names, layouts and conventions.

Apple's Python and Swift pipelines take epsilon from the U-Net, divide latents by 0.18215 before the decoder and
multiply the encoder's output by it, whatever the model: these graphs turn v into epsilon and undo both.

Names, shapes and port types are those of ml-stable-diffusion's torch2coreml.py. Their readers:
- text encoder: pipeline.py feeds `input_ids` f32[1,77] and takes `last_hidden_state`; so does TextEncoder.swift, which
  takes the first input whatever its name.
- U-Net: pipeline.py feeds fp16 `sample`, `timestep` and `encoder_hidden_states` [B,H,1,77] and refuses another type or
  shape (coreml_model.py). It runs batch 1 with guidance_scale <= 1, where `timestep` is [t]; releases before the
  option `--unet-batch-one` always fed [t, t] and refuse it. StableDiffusionPipeline.swift runs batch 1 once per step
  with guidanceScale < 1. Unet.swift takes the first output, so there is one.
- decoder: pipeline.py feeds fp16 `z`, Decoder.swift the first input; both take one output, [-1,1].
- encoder: only Encoder.swift has one. It feeds the first input a picture in [-1,1] (torch2coreml.py calls it `x`) and
  takes channels 0..<4 of the first output as mean and 4..<8 as log-variance: image to image with Apple's own package
  needs a model of four latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs import DecoderGraph, TextEncoderGraph, UNetGraph
from export.source import Source
from export.subpixel import fold_upsampling
from export.text import encoded
from runtime.coreml import APPLE_SCALING, NO_NOISE
from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS


@dataclass(frozen=True)
class Part:
    """One module to convert: inputs as (name, example, dtype of the port); names of the outputs, all f32.

    single: it is computed in single precision.
    """

    name: str
    module: nn.Module
    inputs: tuple[tuple[str, Tensor, type[np.generic]], ...]
    outputs: tuple[str, ...]
    single: bool = False


class AppleTextEncoder(nn.Module):
    """input_ids f32[1,77] -> last_hidden_state f32[1,77,H], pooled_outputs f32[1,H].

    Of SDXL (`states` is hidden_states.N) the first is called hidden_embeds, and pooled_outputs is the projected text.
    """

    def __init__(self, model: Any, states: str = "last_hidden_state") -> None:
        super().__init__()
        self.inner = TextEncoderGraph(model, every_layer=states != "last_hidden_state")
        self.states = self.inner.outputs.index(states)
        self.pooled = 0 if self.inner.projects else 1
        self.outputs = ("hidden_embeds" if self.inner.every_layer else states, "pooled_outputs")

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self.inner(input_ids.to(torch.int32))
        return found[self.states], found[self.pooled]


class AppleUNet(nn.Module):
    """sample[1,C,h,w], timestep[1], encoder_hidden_states[1,H,1,77] -> noise_pred f32[1,C,h,w]: epsilon.

    SDXL's also takes time_ids[1,6] and text_embeds[1,P]. A U-Net's prediction of v becomes epsilon = sigma * x +
    alpha * v, with alpha and sigma of the timestep.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.inner = UNetGraph(source.pipe.unet)
        self.predicts_v = source.prediction_type == "v_prediction"
        times = [step.timestep for steps in source.tables.values() for step in steps]
        if self.predicts_v and any(t != int(t) or t < 0 for t in times):
            raise UserError(
                f"{source.name} gives its U-Net timesteps such as {times[0]:.3g}, for which Core ML's graph has no "
                "noise level: export it to ONNX"
            )
        alpha, sigma = (torch.from_numpy(level).float() for level in source.levels)
        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("sigma", sigma, persistent=False)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        time_ids: Tensor | None = None,
        text_embeds: Tensor | None = None,
    ) -> Tensor:
        states = encoder_hidden_states.squeeze(2).transpose(1, 2)
        output: Tensor = self.inner(sample, timestep, states, text_embeds, time_ids)
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


class AppleEncoder(nn.Module):
    """x[1,3,H,W], a picture in [-1,1] -> latent f32[1,2C,h,w]: mean and log-variance of latents divided by 0.18215.

    An autoencoder that is not variational gives NO_NOISE as the log-variance.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.vae = source.pipe.vae
        self.scale = source.scaling_factor / APPLE_SCALING

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.vae.encode(x, return_dict=False)[0]
        if isinstance(encoded, Tensor):
            return torch.cat([encoded * self.scale, torch.full(encoded.shape, NO_NOISE)], dim=1)
        mean, log_variance = encoded.parameters.chunk(2, dim=1)
        return torch.cat([mean * self.scale, log_variance + 2 * math.log(self.scale)], dim=1)


def parts(source: Source) -> Iterator[Part]:
    """The modules of a checkpoint, smallest first. Folds the end of its decoder."""
    pipe = source.pipe
    fold_upsampling(pipe.vae)
    latents = torch.zeros(1, *source.latent_shape)
    half = np.float16
    single = source.upcast
    yield Part("vae_decoder", AppleDecoder(source), (("z", latents, half),), ("image",), single)
    picture = torch.zeros(1, 3, *source.image_size)
    yield Part("vae_encoder", AppleEncoder(source), (("x", picture, half),), ("latent",), single)
    ids = torch.full((1, MAX_TOKENS), 1.0)
    for encoder in source.conditioning.text_encoders:
        text = AppleTextEncoder(getattr(pipe, encoder.component), encoder.states)
        yield Part(encoder.component, text, (("input_ids", ids, np.float32),), text.outputs)
    with torch.no_grad():
        text_of_none = encoded(source, torch.from_numpy(source.encode([""])))
    told = text_of_none.inputs(source.conditioning.sizes(source.image_size))
    states = told["encoder_hidden_states"].transpose(1, 2).unsqueeze(2).contiguous()
    inputs = (
        ("sample", latents, half),
        ("timestep", torch.full((1,), 999.0), half),
        ("encoder_hidden_states", states, half),
        *((name, told[name], half) for name in ("time_ids", "text_embeds") if name in told),
    )
    yield Part("unet", AppleUNet(source), inputs, ("noise_pred",))
