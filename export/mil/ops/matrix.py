"""Matrix products, attention and normalizations; see `export.mil.ops.registry` for the conventions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from export.mil.ops.registry import Number, ints, operation


@operation()
def matmul(x: Tensor, y: Tensor, transpose_x: Number = False, transpose_y: Number = False) -> Tensor:
    """Batched product as in numpy; transposing leaves a vector as it is."""
    left = x.mT if bool(transpose_x) and x.ndim > 1 else x
    right = y.mT if bool(transpose_y) and y.ndim > 1 else y
    return left @ right


@operation()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@operation()
def einsum(values: list[Tensor], equation: str) -> Tensor:
    """An axis of length 1 broadcasts."""
    return torch.einsum(equation, *values)


@operation()
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E) + mask) v, all in fp32; a boolean mask says what is attended to."""
    if attn_mask is not None and attn_mask.dtype == torch.bool and not bool(attn_mask.any(-1).all()):
        raise NotImplementedError("a query that may attend to nothing")
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


@operation()
def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Number = 1e-5,
) -> Tensor:
    """Normalizes over the given axes, with gamma and beta of their shape."""
    over = sorted(axis % x.ndim for axis in ints(axes)) if axes is not None else list(range(x.ndim))
    if over == list(range(over[0], x.ndim)):
        return F.layer_norm(x, x.shape[over[0] :], gamma, beta, float(epsilon))
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    result = (x - mean) * torch.rsqrt(variance + float(epsilon))
    result = result * gamma.reshape(shape) if gamma is not None else result
    return result + beta.reshape(shape) if beta is not None else result


@operation()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Number = 1e-5,
) -> Tensor:
    """Uses the statistics stored in the program, over axis 1; converters also write channel scales and shifts so."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


@operation()
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Number = 1e-5) -> Tensor:
    """Normalizes each channel of each item by its own mean and variance."""
    return F.instance_norm(x, weight=gamma, bias=beta, eps=float(epsilon))


@operation()
def l2_norm(x: Tensor, epsilon: Number = 1e-6) -> Tensor:
    """Divided by the root of the sum of squares over the last three axes."""
    total = x.square().sum((-3, -2, -1), keepdim=True)
    return x / torch.sqrt(total + float(epsilon))


@operation()
def local_response_norm(x: Tensor, size: Tensor, alpha: Number = 1e-4, beta: Number = 0.75, k: Number = 1.0) -> Tensor:
    """Divided by a power of the sum of squares over neighbouring channels."""
    if int(size) % 2 == 0:
        raise NotImplementedError("an even size: the reference does not define its window's position")
    return F.local_response_norm(x, int(size), float(alpha), float(beta), float(k))
