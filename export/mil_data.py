"""Operations of the Model Intermediate Language that move data and unpack weights, in PyTorch.

See `export.mil_ops` for the conventions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def ints(value: Tensor) -> list[int]:
    """A constant vector (or one number) as Python integers."""
    return [int(item) for item in value.reshape(-1).tolist()]


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """0 keeps the axis of the same position, -1 takes what is left."""
    target = [x.shape[i] if size == 0 else size for i, size in enumerate(ints(shape))]
    return x.reshape(target)


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(ints(perm))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """New axes at the positions that they have in the result."""
    rank = x.ndim + len(ints(axes))
    for axis in sorted(axis % rank for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


def concat(values: list[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    if interleave is not None and bool(interleave):
        raise NotImplementedError("interleave")
    return torch.cat(values, int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> list[Tensor]:
    dim = int(axis)
    if split_sizes is not None:
        return list(torch.split(x, ints(split_sizes), dim))
    if num_splits is None:
        raise NotImplementedError("neither num_splits nor split_sizes")
    return list(torch.split(x, x.shape[dim] // int(num_splits), dim))


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """numpy's slices: a mask entry that is set drops that bound, or takes the one element at begin."""
    rank = x.ndim
    strides = ints(stride) if stride is not None else [1] * rank
    no_begin, no_end, single = (
        [bool(flag) for flag in mask.tolist()] if mask is not None else [False] * rank
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    parts: list[int | slice] = []
    for i, (low, high) in enumerate(zip(ints(begin), ints(end), strict=True)):
        whole = slice(None if no_begin[i] else low, None if no_end[i] else high, strides[i])
        parts.append(low if single[i] else whole)
    if any(step < 0 for step in strides):
        raise NotImplementedError("a negative stride")
    return x[tuple(parts)]


def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(ints(reps))


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """Slices of x along axis; an index out of range is an error here, undefined on a device."""
    if batch_dims is not None and int(batch_dims):
        raise NotImplementedError("batch_dims")
    dim = (int(axis) if axis is not None else 0) % x.ndim
    if not bool(((indices >= 0) & (indices < x.shape[dim])).all()):
        raise NotImplementedError("an index out of range")
    taken = x.index_select(dim, indices.reshape(-1).long())
    return taken.reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    return torch.gather(x, int(axis) if axis is not None else 0, indices.long())


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor) -> Tensor:
    scale = (float(scale_factor_height), float(scale_factor_width))
    return F.interpolate(x, scale_factor=scale, mode="nearest")


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Palettized weights: iOS16's packed indices with a shape, or iOS18's grouped tables of rank + 2."""
    if shape is not None:
        size = ints(shape)
        bits = int(math.log2(lut.numel()))
        stream = np.unpackbits(indices.numpy(), bitorder="little")[: math.prod(size) * bits]
        codes = np.packbits(stream.reshape(-1, bits), axis=1, bitorder="little").reshape(size)
        return lut[torch.from_numpy(codes).long()]
    if lut.shape[-1] != 1:
        raise NotImplementedError("vectors in the table")
    return grouped_lookup(indices.long(), lut[..., 0])


def grouped_lookup(indices: Tensor, tables: Tensor) -> Tensor:
    """tables[g..., code] where each axis of `indices` falls into as many groups as the tables' axis has."""
    for axis in range(indices.ndim):
        tables = tables.repeat_interleave(indices.shape[axis] // tables.shape[axis], axis)
    return tables.gather(-1, indices.unsqueeze(-1)).squeeze(-1)
