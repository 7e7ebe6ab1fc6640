"""The end of a tiny decoder, upsampling and two convolutions, as one convolution at half the resolution.

Nearest-neighbour upsampling and convolutions are linear, so a sequence of them without activations is one
linear map: a 3x3 convolution from each half-size position to its 2x2 pixels (Shi et al. 2016, sub-pixel convolution).
For 48 channels at 128 px it takes 21 million multiply-adds where the three layers take 361 million.

Along the border the two differ: the second convolution pads with zeros where the single kernel would compute the
first. Four strips, a row or column each, subtract what it adds there, so that the result is the same everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# TAPS_5[a, r, m]: whether pixel 2y + a reads half-size row y + r - 1 through tap m of 5; TAPS_3 of 3.
TAPS_5 = [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]]
TAPS_3 = [[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]]
# STEPS[a, r, p, i]: whether pixel 2y + a reads pixel p of half-size row y + r - 1 through tap i of 3.
STEPS = [
    [[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]],
    [[[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]],
]


def fold_upsampling(vae: Any) -> bool:
    """In place: make a tiny decoder's last upsampling and two convolutions a `SubpixelTail`; whether it had any."""
    found = getattr(getattr(vae, "decoder", None), "layers", None)
    layers = list(found) if isinstance(found, nn.Sequential) else []
    if len(layers) < 3 or not foldable(*layers[-3:]):
        return False
    first, second = layers[-2:]
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    vae.decoder.layers = nn.Sequential(*layers[:-3], SubpixelTail(first, second))
    return True


def foldable(upsample: nn.Module, first: nn.Module, second: nn.Module) -> bool:
    """Whether `SubpixelTail` computes these three layers."""
    doubled = isinstance(upsample, nn.Upsample) and upsample.mode == "nearest" and upsample.scale_factor == 2
    return bool(doubled and is_plain(first) and is_plain(second) and first.bias is None)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a 3x3 convolution that keeps the size by padding with zeros."""
    return isinstance(layer, nn.Conv2d) and (
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.padding_mode,
    ) == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


class SubpixelTail(nn.Module):
    """f32[B,C,h,w] -> f32[B,O,2h,2w]: `second(first(upsampled))`."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    left_out: Tensor
    right: Tensor
    right_out: Tensor

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        a, b = first.weight.detach().double(), second.weight.detach().double()
        outputs, channels = b.shape[0], a.shape[1]
        self.conv = nn.Conv2d(channels, 4 * outputs, 3, padding=1, bias=second.bias is not None)
        self.conv.weight.data = whole_kernel(a, b)
        if second.bias is not None:
            self.conv.bias = nn.Parameter(second.bias.detach().repeat_interleave(4))
        self.register_buffer("top", row_kernel(a[:, :, 2], b[:, :, 0], 0))
        self.register_buffer("bottom", row_kernel(a[:, :, 0], b[:, :, 2], 1))
        for name, near, far, column in (("left", 2, 0, 0), ("right", 0, 2, 1)):
            self.register_buffer(name, column_kernel(a[:, :, :, near]))
            self.register_buffer(f"{name}_out", column_out_kernel(b[:, :, :, far], column))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        packed = self.conv(x)
        for edge, kernel, place in (
            (x[:, :, :1], self.top, (0, 0, 0, height - 1)),
            (x[:, :, -1:], self.bottom, (0, 0, height - 1, 0)),
        ):
            packed = packed + functional.pad(functional.conv2d(edge, kernel, padding=(0, 1)), place)
        for edge, kernel, out, place in (
            (x[..., :1], self.left, self.left_out, (0, width - 1, 0, 0)),
            (x[..., -1:], self.right, self.right_out, (width - 1, 0, 0, 0)),
        ):
            outside = functional.conv2d(edge, kernel, padding=(1, 0))
            packed = packed + functional.pad(functional.conv2d(outside, out, padding=(1, 0)), place)
        return functional.pixel_shuffle(packed, 2)


def whole_kernel(a: Tensor, b: Tensor) -> Tensor:
    """[4 O, C, 3, 3] of convolutions a [D, C, 3, 3], then b [O, D, 3, 3], its channels as in pixel_shuffle."""
    both = torch.zeros(b.shape[0], a.shape[1], 5, 5, dtype=a.dtype)
    for i in range(3):
        for j in range(3):
            both[:, :, i : i + 3, j : j + 3] += torch.einsum("od,dckl->ockl", b[:, :, i, j], a)
    taps = torch.tensor(TAPS_5, dtype=a.dtype)
    return torch.einsum("prm,qsn,ocmn->opqcrs", taps, taps, both).reshape(-1, a.shape[1], 3, 3).float()


def row_kernel(a: Tensor, b: Tensor, row: int) -> Tensor:
    """[4 O, C, 1, 3], less what the row outside (a [D, C, 3] of the row inside) adds through b [O, D, 3] to `row`."""
    both = torch.zeros(b.shape[0], a.shape[1], 5, dtype=a.dtype)
    for j in range(3):
        both[:, :, j : j + 3] += torch.einsum("od,dcl->ocl", b[:, :, j], a)
    kernel = torch.zeros(b.shape[0], 2, 2, a.shape[1], 1, 3, dtype=a.dtype)
    kernel[:, row, :, :, 0] = -torch.einsum("qsn,ocn->oqcs", torch.tensor(TAPS_5, dtype=a.dtype), both)
    return kernel.flatten(0, 2).float()


def column_kernel(a: Tensor) -> Tensor:
    """[2 D, C, 3, 1]: the column outside, a pair of pixels per row, from the column inside through a [D, C, 3]."""
    taps = torch.tensor(TAPS_3, dtype=a.dtype)
    return torch.einsum("prk,dck->pdcr", taps, a).flatten(0, 1)[..., None].float()


def column_out_kernel(b: Tensor, column: int) -> Tensor:
    """[4 O, 2 D, 3, 1], less what the column outside adds through b [O, D, 3] to `column` of the pixels inside."""
    steps = torch.tensor(STEPS, dtype=b.dtype)
    kernel = torch.zeros(b.shape[0], 2, 2, 2, b.shape[1], 3, dtype=b.dtype)
    kernel[:, :, column] = -torch.einsum("arpi,odi->oapdr", steps, b)
    return kernel.flatten(3, 4).flatten(0, 2)[..., None].float()
