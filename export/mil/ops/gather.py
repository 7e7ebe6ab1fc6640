"""Operations that read and write at positions given by tensors; see `export.mil.ops.registry` for the conventions.

Before iOS17 a negative index counts from the end; from iOS17 on it is out of range. An index out of range is refused:
what a device does with it is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from export.mil.ops.registry import Number, operation
from export.mil.ops.tensor import IOS17


def checked(indices: Tensor, size: int, opset: int) -> Tensor:
    """The indices as int64 in 0..size-1; NotImplementedError when one is out of range."""
    found = indices.long()
    if opset < IOS17:
        found = torch.where(found < 0, found + size, found)
    if not bool(((found >= 0) & (found < size)).all()):
        raise NotImplementedError("an index out of range")
    return found


@operation(exact=True)
def gather(
    x: Tensor,
    indices: Tensor,
    opset: int,
    axis: Number = 0,
    batch_dims: Number = 0,
    validate_indices: Number = False,
) -> Tensor:
    """Slices of x along axis; the first batch_dims axes of x and indices are shared."""
    dim, batch = int(axis) % x.ndim, int(batch_dims)
    places = checked(indices, x.shape[dim], opset)
    if batch == 0:
        taken = x.index_select(dim, places.reshape(-1))
        return taken.reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])
    items = math.prod(x.shape[:batch])
    rows, each = x.reshape(items, *x.shape[batch:]), places.reshape(items, -1)
    inner = dim - batch
    taken = torch.stack([row.index_select(inner, some) for row, some in zip(rows, each, strict=True)])
    return taken.reshape(*x.shape[:dim], *indices.shape[batch:], *x.shape[dim + 1 :])


@operation(exact=True)
def gather_along_axis(
    x: Tensor, indices: Tensor, opset: int, axis: Number = 0, validate_indices: Number = False
) -> Tensor:
    """x at the index given for each position of the result along axis."""
    dim = int(axis) % x.ndim
    return torch.gather(x, dim, checked(indices, x.shape[dim], opset))


@operation(exact=True)
def gather_nd(
    x: Tensor, indices: Tensor, opset: int, batch_dims: Number = 0, validate_indices: Number = False
) -> Tensor:
    """x[indices[..., 0], indices[..., 1], ...]; the first batch_dims axes are shared."""
    batch, depth = int(batch_dims), indices.shape[-1]
    items = math.prod(x.shape[:batch])
    cells = x.reshape(items, -1, *x.shape[batch + depth :])
    places = flat_places(indices, x.shape[batch : batch + depth], opset).reshape(items, -1)
    taken = torch.stack([row.index_select(0, some) for row, some in zip(cells, places, strict=True)])
    return taken.reshape(*indices.shape[:-1], *x.shape[batch + depth :])


def flat_places(indices: Tensor, sizes: Sequence[int], opset: int) -> Tensor:
    """Rows of indices into axes of those sizes, as row-major offsets."""
    total = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(sizes):
        total = total * size + checked(indices[..., i], size, opset)
    return total


def written(data: Tensor, places: Tensor, updates: Tensor, dim: int, mode: str) -> Tensor:
    """data with updates written along `dim`; places: int64 of the updates' shape.

    Several updates of one position apply one after the other.
    """
    if mode == "update":
        return data.scatter(dim, places, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(dim, places, updates if mode == "add" else -updates)
    if mode in ("max", "min"):
        return data.scatter_reduce(dim, places, updates, "amax" if mode == "max" else "amin")
    if mode == "mul":
        return data.scatter_reduce(dim, places, updates, "prod")
    if mode == "div" and data.is_floating_point():
        return data / torch.ones_like(data).scatter_reduce(dim, places, updates, "prod")
    raise NotImplementedError(f"mode {mode}")


def writes_twice(places: Tensor, dim: int, mode: str) -> bool:
    """Whether two updates along `dim` replace the same position: which one stays is undefined."""
    if mode != "update":
        return False
    ordered = places.sort(dim).values
    size = places.shape[dim]
    return bool((ordered.narrow(dim, 1, size - 1) == ordered.narrow(dim, 0, size - 1)).any())


def rows_written_twice(indices: Tensor, mode: str = "add", **_: object) -> bool:
    """For scatter: whether an index occurs twice."""
    return writes_twice(indices.reshape(-1), 0, mode)


def cells_written_twice(indices: Tensor, mode: str = "add", **_: object) -> bool:
    """For scatter_nd: whether a row of indices occurs twice."""
    rows = indices.reshape(-1, indices.shape[-1])
    return mode == "update" and len({tuple(row) for row in rows.tolist()}) < len(rows)


def places_written_twice(indices: Tensor, axis: Number = 0, mode: str = "add", **_: object) -> bool:
    """For scatter_along_axis: whether an index occurs twice along the axis."""
    return writes_twice(indices, int(axis), mode)


@operation(ambiguous=rows_written_twice)
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    axis: Number = 0,
    mode: str = "add",
    validate_indices: Number = False,
) -> Tensor:
    """Slices of updates into data along axis; updates: data.shape[:axis] + indices.shape + data.shape[axis + 1:]."""
    dim = int(axis) % data.ndim
    places = checked(indices, data.shape[dim], opset).reshape(-1)
    rows = updates.reshape(*data.shape[:dim], len(places), *data.shape[dim + 1 :])
    lying = places.reshape([-1 if i == dim else 1 for i in range(data.ndim)])
    return written(data, lying.expand(rows.shape), rows, dim, mode)


@operation(ambiguous=places_written_twice)
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    axis: Number = 0,
    mode: str = "add",
    validate_indices: Number = False,
) -> Tensor:
    """Each update goes to the index given for it along axis."""
    dim = int(axis) % data.ndim
    return written(data, checked(indices, data.shape[dim], opset), updates, dim, mode)


@operation(ambiguous=cells_written_twice)
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    mode: str = "add",
    validate_indices: Number = False,
) -> Tensor:
    """data[indices[..., 0], indices[..., 1], ...] changed by the updates."""
    depth = indices.shape[-1]
    cells = data.reshape(math.prod(data.shape[:depth]), -1)
    places = flat_places(indices, data.shape[:depth], opset).reshape(-1)
    rows = updates.reshape(len(places), -1)
    return written(cells, places[:, None].expand(rows.shape), rows, 0, mode).reshape(data.shape)
