"""Operations that resample pictures; see `export.mil.ops.registry` for the conventions.

Where coremltools' reference is silent, its conversions are the source: upsample_nearest_neighbor corresponds to
PyTorch's `nearest`, resize_nearest_neighbor and resize for TensorFlow's with half-pixel centres.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from export.mil.ops.registry import Number, ints, operation


def grid(size: int, count: int, mode: str) -> Tensor:
    """Where `count` samples lie on an axis of `size` values, f64[count] in 0..size-1."""
    steps = torch.arange(count, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1 and mode == "ALIGN_CORNERS":
            return torch.tensor([(size - 1) / 2], dtype=torch.float64)
        found = steps * ((size - 1) / max(1, count - 1))
    elif mode == "DEFAULT":
        found = steps * (size / count)
    elif mode == "OFFSET_CORNERS":
        found = (steps + 0.5) * (max(1, size - 1) / count)
    elif mode == "UNALIGN_CORNERS":
        found = (steps + 0.5) * (size / count) - 0.5
    else:
        raise NotImplementedError(f"sampling_mode {mode}")
    return found.clamp(0, size - 1)


def interpolated(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    """Linear interpolation along one axis."""
    if count == x.shape[axis] and mode != "OFFSET_CORNERS":
        return x
    points = grid(x.shape[axis], count, mode)
    low = points.floor().long()
    high = (low + 1).clamp_max(x.shape[axis] - 1)
    weight = (points - low).to(x.dtype).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)


def nearest(x: Tensor, axis: int, count: int) -> Tensor:
    """The value whose pixel contains the centre of each new pixel."""
    size = x.shape[axis]
    places = torch.floor((torch.arange(count, dtype=torch.float64) + 0.5) * (size / count)).long()
    return x.index_select(axis, places.clamp_max(size - 1))


@operation(exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Number = 1, scale_factor_width: Number = 1) -> Tensor:
    """floor(i / scale), over the last two axes."""
    for axis, factor in ((-2, float(scale_factor_height)), (-1, float(scale_factor_width))):
        size = x.shape[axis]
        count = math.floor(size * factor)
        places = torch.floor(torch.arange(count, dtype=torch.float64) / factor).long().clamp_max(size - 1)
        x = x.index_select(axis, places)
    return x


@operation()
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Number = 1,
    scale_factor_width: Number = 1,
    align_corners: Number = True,
    half_pixel_centers: Number | None = None,
) -> Tensor:
    """Resizes to floor(size * factor), with the factor implied by that size."""
    aligned = bool(align_corners)
    centred = not aligned if half_pixel_centers is None else bool(half_pixel_centers)
    if aligned and centred:
        raise NotImplementedError("align_corners with half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centred else "DEFAULT"
    height = math.floor(x.shape[-2] * float(scale_factor_height))
    width = math.floor(x.shape[-1] * float(scale_factor_width))
    return interpolated(interpolated(x, -2, height, mode), -1, width, mode)


@operation(exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return nearest(nearest(x, -2, int(target_size_height)), -1, int(target_size_width))


@operation()
def resize_bilinear(
    x: Tensor, target_size_height: Number = 1, target_size_width: Number = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    rows = interpolated(x, -2, int(target_size_height), sampling_mode)
    return interpolated(rows, -1, int(target_size_width), sampling_mode)


@operation()
def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resizes the last resized_dims axes to the last sizes of `shape`; 0 leaves an axis as it is."""
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode != "DEFAULT":
        raise NotImplementedError(f"NEAREST_NEIGHBOR with sampling_mode {sampling_mode}")
    sizes = ints(shape)[len(ints(shape)) - int(resized_dims) :]
    for axis, size in enumerate(sizes, start=-len(sizes)):
        count = size or x.shape[axis]
        if interpolation_mode == "NEAREST_NEIGHBOR":
            x = nearest(x, axis, count)
        else:
            x = interpolated(x, axis, count, sampling_mode)
    return x


@operation()
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Number,
    coordinates_mode: str,
    align_corners: Number,
) -> Tensor:
    """x[B, C, H, W] at coordinates[B, H2, W2, (x, y)], in the variants that correspond to PyTorch's grid_sample."""
    reflecting = "reflection" if bool(align_corners) else "symmetric"
    known = {"constant": "zeros", "border": "border", reflecting: "reflection"}
    if padding_mode not in known or coordinates_mode != "normalized_minus_one_to_one" or float(padding_value):
        raise NotImplementedError(f"{padding_mode}, {coordinates_mode}, padding_value {float(padding_value)}")
    return F.grid_sample(x, coordinates.float(), sampling_mode, known[padding_mode], bool(align_corners))
