"""What quantizing each layer costs in the picture: all layers priced by a few backward passes.

To first order an error e of a layer's output moves the picture by J e, where J is the derivative of the picture by
that output. With v drawn from a standard normal distribution over the picture, E[(v . J e)^2] = |J e|^2 (Hutchinson
1989), and v . J e = (J' v) . e: one backward pass gives J' v at every layer at once. Errors of different layers
hardly correlate, so the prices of any choice of layers add up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.calibrate import Range, scale_and_zero
from export.layers import Layer, calibration, draw, layers, observed
from export.onnx.quantize import codes as qdq_codes
from export.onnx.quantize.qdq import INT4, STATIC, WEIGHTS
from export.source import Source

SEED = 20_000  # of the probes
PROBES, LARGE_PROBES = 4, 2  # backward passes per batch
# Side of the part of a large model's latents that is decoded to a picture: a KL decoder of Stable Diffusion would keep
# 12 GB of a whole one of 512 pixels. Squared errors are means over the picture, so that a part estimates them.
LARGE_SIDE = 16
DECODER = "vae_decoder"  # the component whose layers see that part only


@dataclass
class Price:
    """One layer: multiply-adds and inputs per whole picture, numbers in its weight, its share of the error by kind."""

    layer: Layer
    macs: int = 0
    inputs: int = 0
    weights: int = 0
    squared_error: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def prices(
    source: Source,
    ranges: Mapping[str, tuple[Range, Range]],
    kinds: tuple[str, ...],
    count: int,
    batch: int,
    steps: int = 1,
) -> dict[str, Price]:
    """Layer name -> price, its errors as mean squared errors of pictures in [0,1], over `count` pictures.

    steps: of the pictures; a layer's errors in each of them count.
    kinds: those of `qdq` to price. A layer that does not support a kind has no price for it.
    """
    found: dict[str, Price] = {}
    probes = LARGE_PROBES if source.large else PROBES
    kept = torch.bfloat16 if source.large else torch.float32  # in which errors wait for their gradients
    side = LARGE_SIDE if source.large else None
    generator = torch.Generator().manual_seed(SEED)

    def price(layer: Layer, given: Tensor, output: Tensor) -> Tensor:
        entry = found.setdefault(layer.name, Price(layer, weights=layer.weight.numel()))
        parts = whole if layer.component == DECODER else 1.0
        entry.macs = round(parts * output[0].numel() * layer.weight[0].numel()) if given.is_floating_point() else 0
        entry.inputs = round(parts * given[0].numel())
        with torch.no_grad():
            errors = {kind: error_of(layer, kind, given, output, ranges.get(layer.name)) for kind in kinds}
        known = {kind: error.to(kept) for kind, error in errors.items() if error is not None}
        # A leaf where nothing before it has a gradient; elsewhere a view, which the caller may change in place.
        passed = output.view_as(output) if output.requires_grad else output.detach().requires_grad_()

        def collect(gradient: Tensor) -> None:
            for kind, error in known.items():
                products = (gradient * error).flatten(1).sum(1)
                entry.squared_error[kind] += float((products**2).sum()) / (count * probes)

        passed.register_hook(collect)  # type: ignore[no-untyped-call]
        return passed

    with torch.enable_grad(), observed(layers(source), price):
        for ids, noise in calibration(source, count, batch):
            whole = parts_of_a_picture(noise, side)
            picture = draw(source, ids, noise, steps, side)
            for probe in range(probes):
                v = torch.randn(picture.shape, generator=generator) / picture[0].numel() ** 0.5
                v = v * ((picture >= 0) & (picture <= 1))  # clamped values show no error
                torch.autograd.backward(picture, v, retain_graph=probe + 1 < probes)
    return found


def parts_of_a_picture(noise: Tensor, side: int | None) -> float:
    """How many times a decoder's layer runs on so much, in a whole picture, as in the part that is drawn here.

    noise: f32[B, C, h, w]. side: of the part in latents; None is the whole.
    """
    height, width = noise.shape[-2:]
    return height * width / (min(side, height) * min(side, width)) if side else 1.0


def error_of(
    layer: Layer, kind: str, given: Tensor, output: Tensor, sides: tuple[Range, Range] | None
) -> Tensor | None:
    """A layer's quantized output minus its exact output; None where it does not support the kind."""
    matrix = isinstance(layer.module, nn.Linear) and given.ndim > 2  # a Gemm, which has two axes, has no 4-bit form
    if kind == STATIC and sides is not None and isinstance(layer.module, (nn.Linear, nn.Conv2d)):
        return static_error(layer, given, output, sides)
    if kind == WEIGHTS or (kind == INT4 and matrix):
        return applied(layer.module, given, stored_weight(layer, kind) - layer.weight, None)
    return None


def static_error(layer: Layer, given: Tensor, output: Tensor, sides: tuple[Range, Range]) -> Tensor:
    """The error of a layer on 8-bit codes; a convolution's result is coded as well, as ONNX Runtime does it."""
    weight = decoded(layer.weight, qdq_codes.STATIC_LIMIT)
    found = applied(layer.module, through_codes(given, sides[0]), weight, layer.module.bias)
    found = through_codes(found, sides[1]) if isinstance(layer.module, nn.Conv2d) else found
    return found - output


def applied(module: nn.Module, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer with another weight and bias."""
    if isinstance(module, nn.Embedding):
        return F.embedding(given, weight)
    if isinstance(module, nn.Linear):
        return F.linear(given, weight, bias)
    assert isinstance(module, nn.Conv2d)
    return F.conv2d(given, weight, bias, module.stride, module.padding, module.dilation, module.groups)


def stored_weight(layer: Layer, kind: str) -> Tensor:
    """A layer's weight as dequantized from 8 or 4 bits."""
    if kind == WEIGHTS:
        return decoded(layer.weight, qdq_codes.STORED_LIMIT)
    codes, scales = qdq_codes.encode_blocks(layer.weight.numpy())
    blocks = (codes.astype("float32") - 8) * scales[..., None]
    return torch.from_numpy(blocks.reshape(len(codes), -1)[:, : layer.weight.shape[1]].copy())


def decoded(weight: Tensor, limit: int) -> Tensor:
    """A weight rounded to symmetric 8-bit codes, one scale per row."""
    codes, scales = qdq_codes.encode(weight.numpy(), 0, limit)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    return torch.from_numpy(codes.astype("float32") * scales.reshape(shape))


def through_codes(values: Tensor, limits: Range) -> Tensor:
    """Values rounded to the 256 levels of a range."""
    scale, zero = scale_and_zero(*limits)
    return torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero), 0, 255)
