"""Quantizing operations: activations to 8 bits and back, and weights stored in few bits or sparsely.

See `export.mil.ops.registry` for the conventions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from export.mil.ops.registry import ints, operation

RANGES = {"int8": (-128, 127, torch.int8), "uint8": (0, 255, torch.uint8)}


@operation()
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """clip(round(input / scale) + zero_point) as int8 or uint8; halves round to even."""
    low, high, dtype = RANGES[output_dtype]
    steps = torch.round(input / along(scale, input.ndim, axis))
    if zero_point is not None:
        steps = steps + along(zero_point, input.ndim, axis).float()
    return steps.clamp_(low, high).to(dtype)


@operation()
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """scale * (input - zero_point); the difference does not wrap around."""
    steps = input.float()
    if zero_point is not None:
        steps = steps - along(zero_point, input.ndim, axis).float()
    return steps * along(scale, input.ndim, axis)


@operation()
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """Weights of 8 bits (iOS16): scale * (quantized_data - zero_point), each a scalar or a vector along `axis`."""
    return dequantize(quantized_data, scale, zero_point, axis)


@operation()
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Weights of 4 or 8 bits (iOS18): scale * (data - offset), with one scale and offset per block.

    scale and offset have the data's rank; where their length is n, the data's axis is divided into n blocks.
    """
    steps = data.float()
    if offset is not None:
        steps = steps - spread(offset.float(), data.shape)
    return steps * spread(scale, data.shape)


@operation()
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Palettized weights: iOS16's packed indices with a shape, or iOS18's tables [groups..., values, vector]."""
    if shape is None:
        return looked_up(indices, lut, vector_axis)
    size = ints(shape)
    codes = unpacked(indices.numpy(), int(math.log2(lut.numel())), math.prod(size))
    return torch.from_numpy(np.take(lut.numpy(), codes)).reshape(size)


@operation()
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    """Zeros except where the mask has a one: iOS16's packed bits with a shape, or iOS18's mask of its shape."""
    if shape is not None:
        size = ints(shape)
        mask = torch.from_numpy(unpacked(mask.numpy(), 1, math.prod(size))).reshape(size)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask.bool()] = nonzero_data
    return dense


@operation()
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """fp16 weights cast to fp32."""
    if output_dtype != "fp32":
        raise NotImplementedError(f"output_dtype {output_dtype}")
    return source_val.float()


@operation()
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A mask and the values where it has a one, from a mask and the palette's indices there."""
    dense = looked_up(constexpr_sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], int(vector_axis))
    return mask, dense[mask.bool()]


@operation()
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A mask and the values where it has a one, from the same mask and the quantized values there."""
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask.bool()]


def along(values: Tensor, rank: int, axis: Tensor | None) -> Tensor:
    """A scalar as it is; a vector reshaped to run along `axis` of a tensor of that rank."""
    if values.ndim == 0 or axis is None:
        return values
    shape = [1] * rank
    shape[int(axis)] = -1
    return values.reshape(shape)


def spread(blocks: Tensor, shape: torch.Size) -> Tensor:
    """One value per block, repeated over its block, so that the result broadcasts to `shape`."""
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = blocks.repeat_interleave(size // blocks.shape[axis], axis)
    return blocks


def looked_up(indices: Tensor, lut: Tensor, vector_axis: Tensor | None) -> Tensor:
    """lut[group of the index, index]: each axis of `indices` is divided into as many groups as the table's axis has.

    A vector in the table fills as many positions along `vector_axis` as it is long.
    """
    groups, (count, width) = lut.shape[:-2], lut.shape[-2:]
    rows = indices.int()
    if math.prod(groups) > 1:
        rows = rows + count * group_numbers(indices.shape, groups)
    if width == 1:
        return lut.reshape(-1).index_select(0, rows.reshape(-1)).reshape(indices.shape)
    if vector_axis is None:
        raise NotImplementedError("vectors in the table without vector_axis")
    axis = int(vector_axis) % indices.ndim
    found = lut.reshape(-1, width).index_select(0, rows.reshape(-1)).reshape(*indices.shape, width)
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def group_numbers(shape: torch.Size, groups: torch.Size) -> Tensor:
    """The row-major index of each position's group, int32, broadcasting to `shape`."""
    total = torch.zeros([1] * len(shape), dtype=torch.int32)
    for axis, (size, count) in enumerate(zip(shape, groups, strict=True)):
        position = torch.arange(size, dtype=torch.int32) // (size // count)
        total = total * count + position.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return total


def unpacked(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` codes of 1, 2, 3, 4, 6 or 8 bits, packed from the lowest bit up, as uint8.

    data: u8[>= ceil(count * bits / 8)].
    """
    if bits == 8:
        return data[:count]
    width = 4 if 32 % bits == 0 else 3  # bytes after which a code starts at a byte boundary again
    words = -(-count * bits // (8 * width))
    padded = np.zeros(words * width, np.uint8)
    padded[: min(len(data), len(padded))] = data[: len(padded)]
    wide = np.zeros((words, 4), np.uint8)
    wide[:, :width] = padded.reshape(words, width)
    word = wide.reshape(-1).view("<u4")
    codes = np.empty((words, 8 * width // bits), np.uint8)
    for i in range(codes.shape[1]):
        codes[:, i] = (word >> np.uint32(bits * i)) & np.uint32(2**bits - 1)
    return codes.reshape(-1)[:count]
