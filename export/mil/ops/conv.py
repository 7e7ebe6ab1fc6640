"""Convolutions and pooling in one to three dimensions; see `export.mil.ops.registry` for the conventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from export.mil.ops.registry import Number, ints, operation

CONV: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
AVERAGE: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
LARGEST: tuple[Callable[..., Any], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)

Pairs = list[tuple[int, int]]  # before and after each spatial axis


def pads(
    pad_type: str, pad: Tensor | None, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> Pairs:
    """Padding of each axis: none, as given, or so that the output's size is ceil(size / stride).

    kernel: sizes including dilation. `same` puts the odd element at the end, `same_lower` at the start.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        given = ints(pad) if pad is not None else [0] * (2 * len(sizes))
        return list(zip(given[::2], given[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise NotImplementedError(f"pad_type {pad_type}")
    pairs = []
    for size, width, step in zip(sizes, kernel, strides, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + width - size)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if pad_type == "same" else (more, less))
    return pairs


def padded(x: Tensor, pairs: Pairs, value: float = 0.0) -> Tensor:
    """x with `value` around its spatial axes."""
    if not any(sum(pair) for pair in pairs):
        return x
    return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)


def per_axis(values: Tensor | None, count: int) -> list[int]:
    """One integer per axis, ones by default."""
    return ints(values) if values is not None else [1] * count


@operation()
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Number = 1,
) -> Tensor:
    """x[n, C_in, *d], weight[C_out, C_in / groups, *k]."""
    count = x.ndim - 2
    stride, spread = per_axis(strides, count), per_axis(dilations, count)
    kernel = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], spread, strict=True)]
    pairs = pads(pad_type, pad, x.shape[2:], kernel, stride)
    inside = [before for before, _ in pairs] if all(before == after for before, after in pairs) else [0] * count
    around = x if any(inside) else padded(x, pairs)
    return CONV[count - 1](around, weight, bias, stride, inside, spread, int(groups))


@operation()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Number = 1,
) -> Tensor:
    """x[n, C_in, *d], weight[C_in, C_out / groups, *k]; padding is cut off from the full result."""
    count = x.ndim - 2
    stride, spread = per_axis(strides, count), per_axis(dilations, count)
    whole = [
        (size - 1) * step + (width - 1) * gap + 1
        for size, step, width, gap in zip(x.shape[2:], stride, weight.shape[2:], spread, strict=True)
    ]
    cut = pads(pad_type, pad, whole, [1] * count, [1] * count) if pad_type in ("valid", "custom") else None
    if cut is None:
        wanted = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
        cut = surplus(pad_type, whole, ints(output_shape)[2:] if output_shape is not None else wanted)
    short = [max(0, -after) for _, after in cut]
    full = TRANSPOSED[count - 1](x, weight, bias, stride, 0, short, int(groups), spread)
    for axis, (before, after) in enumerate(cut, start=2):
        full = full.narrow(axis, before, full.shape[axis] - before - max(0, after))
    if output_shape is not None and list(full.shape) != ints(output_shape):
        raise NotImplementedError(f"output_shape {ints(output_shape)} where the padding leaves {list(full.shape)}")
    return full


def surplus(pad_type: str, whole: Sequence[int], wanted: Sequence[int]) -> Pairs:
    """What `same` cuts before and after each axis; a negative number after: that many zeros are missing there."""
    if pad_type != "same":
        raise NotImplementedError(f"pad_type {pad_type}")
    totals = [size - want for size, want in zip(whole, wanted, strict=True)]
    return [(total // 2, total - total // 2) if total > 0 else (0, total) for total in totals]


@operation()
def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Number = False,
    exclude_padding_from_average: Number = False,
) -> Tensor:
    """Mean of each window, in which padding counts as zeros unless it is excluded."""
    count, kernel = x.ndim - 2, ints(kernel_sizes)
    stride = per_axis(strides, count)
    pairs = pads(pad_type, pad, x.shape[2:], kernel, stride)
    average = AVERAGE[count - 1]
    if bool(ceil_mode):
        inside = not bool(exclude_padding_from_average)
        return average(x, kernel, stride, symmetric(pairs), True, inside)
    total = average(padded(x, pairs), kernel, stride)
    if not bool(exclude_padding_from_average) or not any(sum(pair) for pair in pairs):
        return total
    return total / average(padded(torch.ones_like(x), pairs), kernel, stride)


@operation()
def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Number = False,
) -> Tensor:
    """Largest value of each window; never the padding."""
    count, kernel = x.ndim - 2, ints(kernel_sizes)
    stride = per_axis(strides, count)
    pairs = pads(pad_type, pad, x.shape[2:], kernel, stride)
    if bool(ceil_mode):
        largest: Tensor = LARGEST[count - 1](x, kernel, stride, symmetric(pairs), 1, True)
    else:
        largest = LARGEST[count - 1](padded(x, pairs, -math.inf), kernel, stride)
    return largest


@operation()
def l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Number = False,
) -> Tensor:
    """Square root of each window's sum of squares, in one or two dimensions."""
    if bool(ceil_mode) or x.ndim > 4:
        raise NotImplementedError("ceil_mode, or three dimensions")
    mean = avg_pool(x.square(), kernel_sizes, pad_type, strides, pad)
    return (mean * math.prod(ints(kernel_sizes))).sqrt()


def symmetric(pairs: Pairs) -> list[int]:
    """Padding as PyTorch uses it with ceil_mode."""
    if any(before != after for before, after in pairs):
        raise NotImplementedError("ceil_mode with unequal padding")
    return [before for before, _ in pairs]
