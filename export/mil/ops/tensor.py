"""Operations that make, shape and join tensors; see `export.mil.ops.registry` for the conventions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from export.mil.ops.registry import Number, ints, operation

IOS17 = 7  # its opset


@operation(exact=True)
def reshape(x: Tensor, shape: Tensor, opset: int) -> Tensor:
    """-1 takes what is left, 0 keeps an axis: the one of the same position, from iOS17 on counted from the last."""
    target = ints(shape)
    if 0 in target:
        if opset < IOS17 and len(target) != x.ndim:
            raise NotImplementedError("0 in a shape of another rank")
        offset = x.ndim - len(target)
        target = [
            (x.shape[i + offset] if i + offset >= 0 else 1) if size == 0 else size for i, size in enumerate(target)
        ]
    return x.reshape(target)


@operation(exact=True)
def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    """Reshapes to the parts begin:end (end_mask: to the last axis) of the references' shapes, joined."""
    shape: list[int] = []
    for reference, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[int(begin) : None if bool(whole) else int(end)]
    return x.reshape(shape)


@operation(exact=True)
def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(ints(perm))


@operation(exact=True)
def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """New axes, given by their positions in the result."""
    rank = x.ndim + len(ints(axes))
    for axis in sorted(axis % rank for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


@operation(exact=True)
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Axes longer than 1 stay."""
    return x.squeeze() if axes is None else x.squeeze(ints(axes))


@operation(exact=True)
def flatten2d(x: Tensor, axis: Number = 1) -> Tensor:
    """Two axes: the product of those before `axis`, and that of the rest."""
    before = math.prod(x.shape[: int(axis)])
    return x.reshape(before, -1)


@operation(exact=True)
def concat(values: list[Tensor], axis: Tensor, interleave: Number = False) -> Tensor:
    """Joins tensors one after the other; interleaved: the first of each, then the second of each."""
    if not bool(interleave):
        return torch.cat(values, int(axis))
    dim = int(axis) % values[0].ndim
    return torch.stack(values, dim + 1).flatten(dim, dim + 1)


@operation(exact=True)
def stack(values: list[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(values, int(axis))


@operation(exact=True)
def split(x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None) -> list[Tensor]:
    """Splits into parts of the given sizes, or into that many equal parts."""
    dim = int(axis)
    if split_sizes is not None:
        return list(torch.split(x, ints(split_sizes), dim))
    if num_splits is None or x.shape[dim] % int(num_splits):
        raise NotImplementedError("neither split_sizes nor a num_splits that divides the axis")
    return list(torch.split(x, x.shape[dim] // int(num_splits), dim))


@operation(exact=True)
def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(ints(reps))


@operation(exact=True)
def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(ints(axes) if axes is not None else list(range(x.ndim)))


@operation(exact=True)
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@operation(exact=True)
def non_zero(x: Tensor) -> Tensor:
    """A row of indices for each value that is not zero."""
    return x.nonzero()


@operation(exact=True)
def fill(shape: Tensor, value: Number = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(ints(shape)).clone()


@operation(exact=True)
def fill_like(ref_tensor: Tensor, value: Number = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(ref_tensor.shape).clone()


@operation()
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """start, start + step, ... before end."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operation(exact=True)
def one_hot(
    indices: Tensor, one_hot_vector_size: Tensor, axis: Number = -1, on_value: Number = 1, off_value: Number = 0
) -> Tensor:
    """A new axis with on_value at each index; an index beyond it is refused."""
    size = int(one_hot_vector_size)
    if not bool(((indices >= 0) & (indices < size)).all()):
        raise NotImplementedError("an index out of range")
    dim = int(axis) % (indices.ndim + 1)
    places = torch.arange(size).reshape([-1 if i == dim else 1 for i in range(indices.ndim + 1)])
    return torch.where(indices.unsqueeze(dim) == places, on_value, off_value)


@operation(exact=True)
def band_part(x: Tensor, lower: Number = -1, upper: Number = -1) -> Tensor:
    """Zeros outside the given numbers of diagonals below and above the main one; a negative number keeps all."""
    below, above = int(lower), int(upper)
    kept = x.tril(above) if above >= 0 else x
    return kept.triu(-below) if below >= 0 else kept


@operation()
def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Number = 0.0) -> Tensor:
    """Pads before and after each of the last axes."""
    pairs = list(zip(ints(pad)[::2], ints(pad)[1::2], strict=True))
    while pairs and pairs[0] == (0, 0) and mode != "constant":
        pairs.pop(0)  # PyTorch reflects and replicates only the last axes
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    if mode == "constant":
        return F.pad(x, amounts, value=float(constant_val))
    lead = x.ndim - len(pairs)
    rows = x.reshape(1, -1, *x.shape[lead:])
    around = F.pad(rows, amounts, mode={"reflect": "reflect", "replicate": "replicate"}[mode])
    return around.reshape(*x.shape[:lead], *around.shape[2:])


@operation(exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    return F.pixel_shuffle(x, int(upscale_factor))


@operation(exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    return F.pixel_unshuffle(x, int(downscale_factor))


@operation(exact=True)
def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """[n, C, H, W]: the position in the block varies slowest over the channels, as in TensorFlow."""
    n, c, h, w = x.shape
    b = int(block_size)
    blocks = x.reshape(n, b, b, c // (b * b), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@operation(exact=True)
def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """The inverse of depth_to_space."""
    n, c, h, w = x.shape
    b = int(block_size)
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@operation(exact=True)
def sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Number = 1) -> Tensor:
    """A new axis after `axis` with the values of each window."""
    dim = int(axis) % x.ndim
    return x.unfold(dim, int(size), int(stride)).movedim(-1, dim + 1)
