"""Elementwise operations and activations; see `export.mil.ops.registry` for the conventions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from export.mil.ops.registry import BY_NAME, Number, floats_only, operation

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,  # halves round to even
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,  # both have the divisor's sign
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function with MIL's parameter name."""

    def apply(x: Tensor) -> Tensor:
        return function(x)

    return apply


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The function with MIL's parameter names."""

    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return apply


for _name, _unary in UNARY.items():
    operation(_name)(unary(_unary))
for _name, _binary in BINARY.items():
    operation(_name)(binary(_binary))


@operation(exact=True)
def identity(x: Tensor) -> Tensor:
    return x


@operation()
def real_div(x: Tensor, y: Tensor) -> Tensor:
    floats_only(x, y)
    return x / y


@operation()
def exp2(x: Tensor) -> Tensor:
    floats_only(x)
    return torch.exp2(x)


@operation()
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


@operation()
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


@operation()
def inverse(x: Tensor, epsilon: Number = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@operation()
def log(x: Tensor, epsilon: Number = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation()
def rsqrt(x: Tensor, epsilon: Number = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operation(exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


@operation()
def cast(x: Tensor, dtype: str) -> Tensor:
    """Rounds towards zero from float to int; a value that the integer type cannot hold is refused."""
    kind = BY_NAME[dtype]
    if dtype == "bool" or kind.is_float:
        return x != 0 if dtype == "bool" else x.to(torch.float32)
    whole = torch.trunc(x) if x.is_floating_point() else x
    low, high = (0, 2**kind.bits - 1) if dtype.startswith("u") else (-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1)
    wide = whole.double()
    if not bool(((wide >= low) & (wide <= high)).all()):
        raise NotImplementedError(f"a value beyond {dtype}")
    return whole.to(kind.torch)


@operation()
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


@operation()
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@operation()
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """EXACT with the error function, TANH_APPROXIMATION, or SIGMOID_APPROXIMATION (1.702)."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


@operation()
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


@operation()
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x * alpha + beta


@operation()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.prelu(x, alpha)


@operation()
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * torch.tanh(beta * x)


@operation()
def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operation()
def softmax(x: Tensor, axis: Number = -1) -> Tensor:
    return torch.softmax(x, int(axis))


@operation()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha * log(1 + exp(beta * x)), with one alpha and beta per channel."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    return alpha.reshape(shape) * F.softplus(beta.reshape(shape) * x)


@operation()
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, 0.0)
