"""Operations that cut parts out of a tensor or replace them; see `export.mil.ops.registry` for the conventions."""

from __future__ import annotations

import torch
from torch import Tensor

from export.mil.ops.registry import ints, operation


def places(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> list[range]:
    """The indices of each axis, as numpy's slices.

    A mask entry that is set drops that bound; squeezing takes the single position at begin.
    """
    rank = x.ndim
    steps = ints(stride) if stride is not None else [1] * rank
    no_begin, no_end, single = (flags(mask, rank) for mask in (begin_mask, end_mask, squeeze_mask))
    found = []
    for i, (low, high, size) in enumerate(zip(ints(begin), ints(end), x.shape, strict=True)):
        whole = slice(None if no_begin[i] else low, None if no_end[i] or single[i] else high, steps[i])
        axis = range(size)[whole]
        found.append(axis[:1] if single[i] else axis)
    return found


def flags(mask: Tensor | None, rank: int) -> list[bool]:
    """One bool per axis."""
    return [bool(flag) for flag in mask.tolist()] if mask is not None else [False] * rank


def narrowed(x: Tensor, axes: list[range]) -> Tensor:
    """A view of x at those indices; axes that run backwards are reversed in a copy."""
    parts = tuple(slice(axis.start, axis.stop, axis.step) if axis.step > 0 else backwards(axis) for axis in axes)
    turned = [i for i, axis in enumerate(axes) if axis.step < 0]
    return x[parts].flip(turned) if turned else x[parts]


def backwards(axis: range) -> slice:
    """The same positions in ascending order."""
    upward = axis[::-1]
    return slice(upward.start, upward.stop, upward.step)


@operation(exact=True)
def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """numpy's x[begin:end:stride, ...]."""
    part = narrowed(x, places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask))
    return part.squeeze([i for i, flag in enumerate(flags(squeeze_mask, x.ndim)) if flag])


@operation(exact=True)
def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """That many from begin on; -1: all that are left."""
    for axis, (start, count) in enumerate(zip(ints(begin), ints(size), strict=True)):
        first = start % x.shape[axis]
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@operation(exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """x with the part that slice_by_index would return replaced."""
    axes = places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    turned = [i for i, axis in enumerate(axes) if axis.step < 0]
    result = x.clone()
    parts = tuple(slice(axis.start, axis.stop, axis.step) if axis.step > 0 else backwards(axis) for axis in axes)
    result[parts] = update.reshape([len(axis) for axis in axes]).flip(turned)
    return result


@operation(exact=True)
def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    """Cuts rows off at top and bottom, and columns left and right."""
    (top, bottom), (left, right) = ints(crop_height), ints(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operation(exact=True)
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int | Tensor = 0, batch_axis: int | Tensor = 0) -> Tensor:
    """Reverses the first lengths[i] positions along seq_axis, for each i of batch_axis."""
    along, batch = int(seq_axis) % x.ndim, int(batch_axis) % x.ndim
    rows = x.movedim((batch, along), (0, 1))
    turned = [torch.cat([row[:count].flip(0), row[count:]]) for row, count in zip(rows, ints(lengths), strict=True)]
    return torch.stack(turned).movedim((0, 1), (batch, along))
