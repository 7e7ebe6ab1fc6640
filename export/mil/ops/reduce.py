"""Reductions, sorting and running sums; see `export.mil.ops.registry` for the conventions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from export.mil.ops.registry import Number, floats_only, ints, operation

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Reduces over several axes, one at a time in PyTorch."""
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x if keep else x.squeeze(axes)


REDUCTIONS: dict[str, Reduction] = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_prod": product,
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}
OF_FLOATS: dict[str, Reduction] = {
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": torch.logsumexp,
    "reduce_mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
}


def reducing(function: Reduction, integers: bool) -> Callable[..., Tensor]:
    """The function with MIL's parameters: all axes unless some are given."""

    def apply(x: Tensor, axes: Tensor | None = None, keep_dims: Number = False) -> Tensor:
        if not integers:
            floats_only(x)
        over = sorted({axis % x.ndim for axis in ints(axes)}) if axes is not None else list(range(x.ndim))
        return function(x, over, bool(keep_dims))

    return apply


for _name, _function in REDUCTIONS.items():
    operation(_name)(reducing(_function, integers=True))
for _name, _function in OF_FLOATS.items():
    operation(_name)(reducing(_function, integers=False))


def has_ties(x: Tensor, axis: Number = -1, **_: object) -> bool:
    """Whether there are equal values along `axis`: their order depends on the backend."""
    ordered = x.sort(int(axis)).values
    size = x.shape[int(axis)]
    return bool((ordered.narrow(int(axis), 1, size - 1) == ordered.narrow(int(axis), 0, size - 1)).any())


def shares_largest(x: Tensor, axis: Number = -1, **_: object) -> bool:
    """Whether the largest value along `axis` occurs more than once."""
    return bool(((x == x.amax(int(axis), keepdim=True)).sum(int(axis)) > 1).any())


def shares_smallest(x: Tensor, axis: Number = -1, **_: object) -> bool:
    """Whether the smallest value along `axis` occurs more than once."""
    return bool(((x == x.amin(int(axis), keepdim=True)).sum(int(axis)) > 1).any())


@operation(ambiguous=shares_largest)
def reduce_argmax(x: Tensor, axis: Number = -1, keep_dims: Number = False, output_dtype: str = "int32") -> Tensor:
    """The first of the largest values; the reference leaves ties to the backend."""
    return first_where(x == x.amax(int(axis), keepdim=True), int(axis), bool(keep_dims))


@operation(ambiguous=shares_smallest)
def reduce_argmin(x: Tensor, axis: Number = -1, keep_dims: Number = False, output_dtype: str = "int32") -> Tensor:
    """The first of the smallest values; the reference leaves ties to the backend."""
    return first_where(x == x.amin(int(axis), keepdim=True), int(axis), bool(keep_dims))


def first_where(mask: Tensor, axis: int, keep: bool) -> Tensor:
    """Index of the first true value along `axis`."""
    return mask.to(torch.uint8).argmax(axis, keepdim=keep)


@operation(ambiguous=has_ties)
def argsort(x: Tensor, axis: Number = -1, ascending: Number = False) -> Tensor:
    """Equal values keep their order; the reference does not say."""
    return torch.argsort(x, dim=int(axis), descending=not bool(ascending), stable=True)


@operation(ambiguous=has_ties)
def topk(
    x: Tensor,
    k: Number = 1,
    axis: Number = -1,
    ascending: Number = False,
    sort: Number = True,
    return_indices: Number = True,
    output_indices_dtype: str = "int32",
) -> list[Tensor]:
    """The k largest (smallest: ascending) values and where they are, in order."""
    if not bool(sort):
        raise NotImplementedError("sort=False: its order is not guaranteed")
    found = torch.sort(x, dim=int(axis), descending=not bool(ascending), stable=True)
    parts = [found.values.narrow(int(axis), 0, int(k)), found.indices.narrow(int(axis), 0, int(k))]
    return parts if bool(return_indices) else parts[:1]


@operation()
def cumsum(x: Tensor, axis: Number = 0, exclusive: Number = False, reverse: Number = False) -> Tensor:
    """Running sum; exclusive: only what comes before each position; reverse: from the end."""
    ordered = x.flip(int(axis)) if bool(reverse) else x
    total = ordered.cumsum(int(axis))
    if bool(exclusive):
        before = total.narrow(int(axis), 0, x.shape[int(axis)] - 1)
        total = torch.cat([torch.zeros_like(total.narrow(int(axis), 0, 1)), before], int(axis))
    return total.flip(int(axis)) if bool(reverse) else total
