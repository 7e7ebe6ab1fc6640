"""What each operation of the Model Intermediate Language computes, in PyTorch.

Each function takes the operation's own parameter names (an unknown one is an error); tensors come in as fp32,
int or bool, texts as str. Results are rounded to their declared types by the caller.
Source: coremltools' reference of MIL operations (iOS15 to iOS18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from export import mil_data
from export.mil_data import ints

CASTS = {
    "fp32": torch.float32, "fp16": torch.float16, "int32": torch.int32, "int16": torch.int16,
    "uint16": torch.int32, "bool": torch.bool,
}


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def real_div(x: Tensor, y: Tensor) -> Tensor:
    return x / y


def equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


def cast(x: Tensor, dtype: str) -> Tensor:
    """Towards zero from float to int, as a C cast; uint16 is held as int32 and must fit."""
    if dtype == "uint16" and not bool(((x >= 0) & (x < 65536)).all()):
        raise NotImplementedError("a value beyond uint16")
    return x.to(CASTS[dtype])


def rsqrt(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.rsqrt(x + epsilon)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """EXACT with the error function, TANH_APPROXIMATION, or SIGMOID_APPROXIMATION (1.702)."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def softmax(x: Tensor, axis: Tensor) -> Tensor:
    return torch.softmax(x, int(axis))


def matmul(
    x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None
) -> Tensor:
    left = x.transpose(-1, -2) if transpose_x is not None and bool(transpose_x) else x
    right = y.transpose(-1, -2) if transpose_y is not None and bool(transpose_y) else y
    return left @ right


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """2-D convolution; padding valid, or custom: before and after each axis."""
    stride = ints(strides) if strides is not None else [1, 1]
    spread = ints(dilations) if dilations is not None else [1, 1]
    if pad_type == "custom" and pad is not None:
        top, bottom, left, right = ints(pad)
        x = F.pad(x, (left, right, top, bottom))
    elif pad_type != "valid":
        raise NotImplementedError(f"pad_type {pad_type}")
    return F.conv2d(x, weight, bias, stride, 0, spread, int(groups) if groups is not None else 1)


def layer_norm(
    x: Tensor,
    axes: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    over = [axis % x.ndim for axis in ints(axes)]
    mean = x.mean(over, keepdim=True)
    variance = ((x - mean) ** 2).mean(over, keepdim=True)
    result = (x - mean) / torch.sqrt(variance + (float(epsilon) if epsilon is not None else 1e-5))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    result = result * gamma.reshape(shape) if gamma is not None else result
    return result + beta.reshape(shape) if beta is not None else result


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """With the statistics that the program stores, over axis 1; a scale and shift of channels is converted to it."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon) if epsilon is not None else 1e-5)


def _axes(x: Tensor, axes: Tensor | None) -> list[int]:
    return ints(axes) if axes is not None else list(range(x.ndim))


def reduce_mean(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
    return x.mean(_axes(x, axes), keepdim=keep_dims is not None and bool(keep_dims))


def reduce_argmax(
    x: Tensor, axis: Tensor, keep_dims: Tensor | None = None, output_dtype: str = "int32"
) -> Tensor:
    """Ties are left to the backend by the reference: here they are an error."""
    dim = int(axis)
    top = x.amax(dim, keepdim=True)
    if int((x == top).sum(dim).max()) > 1:
        raise NotImplementedError("a tie between largest values")
    return x.argmax(dim, keepdim=keep_dims is not None and bool(keep_dims))


CONSTANTS: dict[str, Callable[..., Tensor]] = {"constexpr_lut_to_dense": mil_data.constexpr_lut_to_dense}
OPERATIONS: dict[str, Callable[..., Any]] = {
    op.__name__: op
    for op in (
        add, batch_norm, cast, conv, einsum, equal, gelu, greater_equal, layer_norm, linear, matmul, mul, real_div,
        reduce_argmax, reduce_mean, rsqrt, select, softmax, sub, mil_data.concat, mil_data.expand_dims,
        mil_data.gather, mil_data.gather_along_axis, mil_data.reshape, mil_data.slice_by_index,
        mil_data.split, mil_data.squeeze, mil_data.tile, mil_data.transpose,
        mil_data.upsample_nearest_neighbor,
    )
}
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "cos": torch.cos, "relu": torch.relu, "sigmoid": torch.sigmoid, "silu": F.silu, "sin": torch.sin,
    "sqrt": torch.sqrt, "square": torch.square, "tanh": torch.tanh,
}
OPERATIONS |= {name: (lambda x, function=function: function(x)) for name, function in UNARY.items()}
