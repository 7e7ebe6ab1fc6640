"""The fp32 ONNX graphs of a checkpoint, traced one by one."""

from __future__ import annotations

from contextlib import nullcontext

import onnx
import torch

from export.fold import folded_timestep
from export.graphs import DecoderGraph, EncoderGraph, TextEncoderGraph, UNetGraph, attention_as, fused_attention
from export.onnx_graph import Port, trace
from export.onnx_passes import optimize
from export.source import Source
from export.subpixel import fold_upsampling
from train.errors import UserError

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


class Tracer:
    """Gives the graph of each component; the end of the checkpoint's decoder is folded by it.

    fold_timestep: the U-Net is of the one-step timestep alone, whatever timestep it is given. keep: the graphs of a
    model that is not large are remembered, and must be copied before they are changed.
    """

    def __init__(self, source: Source, fold_timestep: bool = False, keep: bool = False) -> None:
        self.source, self.fold, self.keep = source, fold_timestep, keep and not source.large
        self.kept: dict[str, onnx.ModelProto] = {}
        fold_upsampling(source.pipe.vae)

    def graph(self, component: str) -> onnx.ModelProto:
        """One graph. UserError with PyTorch's reason when it cannot be traced."""
        if component in self.kept:
            return self.kept[component]
        try:
            model = getattr(self, component)()
        except Exception as error:  # torch.export and its translation raise whatever they meet
            raise UserError(f"PyTorch cannot export the {component} of {self.source.name} to ONNX: {error}") from error
        optimize(model)
        if self.keep:
            self.kept[component] = model
        return model

    def text_encoder(self) -> onnx.ModelProto:
        """input_ids -> last_hidden_state, pooler_output."""
        ids = torch.from_numpy(self.source.encode(["a", "b"]))
        module = TextEncoderGraph(self.source.pipe.text_encoder, fused_attention)
        return trace(module, [Port("input_ids", ids)], ["last_hidden_state", "pooler_output"])

    def unet(self) -> onnx.ModelProto:
        """sample, timestep, encoder_hidden_states -> out_sample."""
        pipe = self.source.pipe
        states = torch.zeros(2, self.source.encode([""]).shape[1], pipe.text_encoder.config.hidden_size)
        timestep = self.source.steps(1)[0][0]
        ports = [
            Port("sample", torch.zeros(2, *self.source.latent_shape)),
            Port("timestep", torch.tensor(float(timestep)), batched=False),
            Port("encoder_hidden_states", states),
        ]
        folded = folded_timestep(pipe.unet, timestep) if self.fold else nullcontext()
        with attention_as(pipe.unet, fused_attention), folded:
            return trace(UNetGraph(pipe.unet), ports, ["out_sample"])

    def vae_decoder(self) -> onnx.ModelProto:
        """latent_sample -> sample."""
        latents = torch.zeros(2, *self.source.latent_shape)
        return trace(DecoderGraph(self.source.pipe.vae), [Port("latent_sample", latents)], ["sample"])

    def vae_encoder(self) -> onnx.ModelProto:
        """sample -> latent_sample."""
        picture = torch.zeros(2, 3, *self.source.image_size)
        return trace(EncoderGraph(self.source.pipe.vae), [Port("sample", picture)], ["latent_sample"])
