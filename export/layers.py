"""The layers of a checkpoint that an exporter can compress, under the names of their ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.graphs import text_roots
from export.source import Source
from export.text import encoded, told
from runtime.sampler import Memory
from train.prompts import repeated

KINDS = (nn.Conv2d, nn.Linear, nn.Embedding)
SEED = 10_000  # of the calibration noise, which the parity cases do not use
Observer = Callable[["Layer", Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """One convolution, linear layer or embedding table. name: as in export.graphs and, before "/", in its ONNX node."""

    component: str
    name: str
    module: Any

    @property
    def weight(self) -> Tensor:
        """f32[outputs, inputs, ...], of a table [rows, width]."""
        return self.module.weight.detach()  # type: ignore[no-any-return]


def layers(source: Source) -> list[Layer]:
    """The layers of text encoders, U-Net and decoder, in the order of their modules."""
    pipe = source.pipe
    parts = [("unet", "unet", pipe.unet), ("vae_decoder", "vae", pipe.vae)]
    parts[:0] = [
        (one, name, root) for one in source.kind.encoders for name, root in text_roots(getattr(pipe, one), one)
    ]
    return [
        Layer(component, f"{prefix}.{name}".rstrip("."), module)
        for component, prefix, root in parts
        for name, module in root.named_modules()
        if isinstance(module, KINDS) and not (prefix == "vae" and name.startswith(("encoder", "quant_conv")))
    ]


@contextmanager
def observed(found: Sequence[Layer], observer: Observer) -> Iterator[None]:
    """Within the block `observer(layer, input, output)` is called for each layer; its result replaces the output."""

    def hook_of(layer: Layer) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _, inputs, output: observer(layer, inputs[0], output)

    hooks = [layer.module.register_forward_hook(hook_of(layer)) for layer in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def calibration(source: Source, count: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(token ids i64[B, 77 per encoder], noise f32[B,C,h,w]) of the first `count` calibration prompts."""
    prompts = repeated(source.prompts.calibration, count)
    for start in range(0, count, batch):
        part = prompts[start : start + batch]
        noise = source.noise([SEED + start + i for i in range(len(part))])
        yield torch.from_numpy(source.encode(part)), torch.from_numpy(noise)


def draw(source: Source, ids: Tensor, noise: Tensor, steps: int = 1, side: int | None = None) -> Tensor:
    """Pictures f32[B,3,H,W], [0,1] before clamping, by the checkpoint's own scheduler; differentiable.

    side: of the middle part of the latents that is decoded; None for all of them.
    """
    pipe, table, memory = source.pipe, source.steps(steps), Memory()
    latents = noise * table[0].noise_scale
    text = encoded(source, ids).arguments(told(source).sizes(noise))
    for step in table:
        output = pipe.unet(latents, torch.tensor(float(step.timestep)), **text, return_dict=False)[0]
        fresh = torch.randn(noise.shape, generator=torch.Generator().manual_seed(SEED)) if step.noise else None
        latents = memory.advance(step, latents, output, fresh)
    decoded = pipe.vae.decode(middle(latents, side) / source.scaling_factor, return_dict=False)[0]
    return decoded / 2 + 0.5  # type: ignore[no-any-return]


def middle(latents: Tensor, side: int | None) -> Tensor:
    """The middle part [B,C,<=side,<=side] of latents."""
    if side is None:
        return latents
    top, left = (max(0, (length - side) // 2) for length in latents.shape[2:])
    return latents[:, :, top : top + side, left : left + side]


def by_name(found: Sequence[Layer]) -> Mapping[str, Layer]:
    """Name -> layer."""
    return {layer.name: layer for layer in found}
