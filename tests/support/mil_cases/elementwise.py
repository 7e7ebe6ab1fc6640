"""Elementwise operations, activations, reductions and sorting against numpy and PyTorch."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_fixtures import Case, T, mb, values, wholes

X = values(2, 4, 3, 5)
ROWS = values(2, 3, 8)
UNIT = np.clip(values(2, 7, scale=0.4), -0.95, 0.95).astype(np.float16).astype(np.float32)
POSITIVE = np.abs(values(3, 5)) + np.float32(0.5)
COLUMN = values(4, 1, 1)
HALVES = np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.25, -0.75]], np.float32)
WHOLES, DIVISORS = wholes(2, 6), np.array([[3, -2, 1, -4, 2, 5]], np.int32)
DISTINCT = np.random.default_rng(1).permutation(24).reshape(2, 3, 4).astype(np.float32)
ERF = np.vectorize(math.erf)


def unary(name, x, reference, **more):
    return Case(name, [x], lambda a: getattr(mb, name)(x=a), lambda a: reference(a.numpy()), **more)


def binary(name, reference, x=X, y=COLUMN, note="", **more):
    """Two inputs of different shapes, and a number."""
    return [
        Case(
            name,
            [x, y],
            lambda a, b: getattr(mb, name)(x=a, y=b),
            lambda a, b: reference(a.numpy(), b.numpy()),
            note=note + "broadcast",
            **more,
        ),
        Case(
            name,
            [x],
            lambda a: getattr(mb, name)(x=a, y=y.dtype.type(2)),
            lambda a: reference(a.numpy(), y.dtype.type(2)),
            note=note + "number",
            **more,
        ),
    ]


def truth(function):
    return lambda a, b: function(a != 0, b != 0)


def logical(name, function):
    return Case(
        name,
        [WHOLES, DIVISORS],
        lambda a, b: getattr(mb, name)(x=mb.cast(x=mb.maximum(x=a, y=0), dtype="bool"), y=mb.greater(x=b, y=0)),
        lambda a, b: function(np.maximum(a.numpy(), 0) != 0, b.numpy() > 0),
    )


UNARY = [
    unary("abs", X, np.abs),
    unary("abs", WHOLES, np.abs, note="int"),
    unary("acos", UNIT, np.arccos),
    unary("asin", UNIT, np.arcsin),
    unary("atan", X, np.arctan),
    unary("atanh", UNIT, np.arctanh),
    unary("ceil", X * 4, np.ceil),
    unary("cos", X, np.cos),
    unary("cosh", X, np.cosh),
    unary("erf", X, ERF),
    unary("exp", X, np.exp),
    unary("exp2", X, np.exp2),
    unary("floor", X * 4, np.floor),
    unary("identity", X, np.array),
    unary("relu", X, lambda a: np.maximum(a, 0)),
    unary("relu6", X * 5, lambda a: np.clip(a, 0, 6)),
    unary("round", HALVES, np.round),
    unary("sigmoid", X, lambda a: 1 / (1 + np.exp(-a))),
    unary("sign", HALVES * np.float32(0.0) + np.sign(HALVES), np.sign),
    unary("sign", WHOLES, np.sign, note="int"),
    unary("silu", X, lambda a: a / (1 + np.exp(-a))),
    unary("sin", X, np.sin),
    unary("sinh", X, np.sinh),
    unary("softplus", X * 9, lambda a: np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0)),
    unary("softsign", X, lambda a: a / (1 + np.abs(a))),
    unary("sqrt", POSITIVE, np.sqrt),
    unary("square", X, np.square),
    unary("square", WHOLES, np.square, note="int"),
    unary("tan", UNIT, np.tan),
    unary("tanh", X, np.tanh),
    Case("logical_not", [X], lambda a: mb.logical_not(x=mb.greater(x=a, y=0.0)), lambda a: ~(a > 0)),
    Case("inverse", [POSITIVE], lambda a: mb.inverse(x=a, epsilon=1e-2), lambda a: 1 / (a + 1e-2)),
    Case("inverse", [POSITIVE], lambda a: mb.inverse(x=a), lambda a: 1 / (a + 1e-4), note="default"),
    Case("log", [POSITIVE], lambda a: mb.log(x=a, epsilon=0.25), lambda a: torch.log(a + 0.25)),
    Case("log", [POSITIVE], lambda a: mb.log(x=a), torch.log, note="default"),
    Case("rsqrt", [POSITIVE], lambda a: mb.rsqrt(x=a, epsilon=1e-3), lambda a: 1 / torch.sqrt(a + 1e-3)),
    Case("rsqrt", [POSITIVE], lambda a: mb.rsqrt(x=a), lambda a: 1 / torch.sqrt(a), note="default"),
    Case("clip", [X], lambda a: mb.clip(x=a, alpha=-0.5, beta=0.75), lambda a: a.numpy().clip(-0.5, 0.75)),
    Case("threshold", [X], lambda a: mb.threshold(x=a, alpha=0.25), lambda a: np.maximum(a.numpy(), 0.25)),
]
BINARY = [
    *binary("add", np.add),
    *binary("sub", np.subtract),
    *binary("mul", np.multiply),
    *binary("real_div", np.divide),
    *binary("maximum", np.maximum),
    *binary("minimum", np.minimum),
    *binary("equal", np.equal, x=HALVES, y=HALVES),
    *binary("not_equal", np.not_equal, x=WHOLES, y=DIVISORS),
    *binary("less", np.less),
    *binary("less_equal", np.less_equal),
    *binary("greater", np.greater),
    *binary("greater_equal", np.greater_equal),
    *binary("pow", np.power, x=POSITIVE, y=POSITIVE),
    *binary("add", np.add, x=WHOLES, y=DIVISORS, note="int "),
    *binary("mul", np.multiply, x=WHOLES, y=DIVISORS, note="int "),
    *binary("floor_div", np.floor_divide, x=WHOLES, y=DIVISORS, note="int "),
    *binary("floor_div", np.floor_divide, x=HALVES * 7, y=np.float32([[-2]])),
    *binary("mod", np.mod, x=WHOLES, y=DIVISORS, note="int "),
    *binary("mod", np.mod, x=HALVES * 7, y=np.float32([[-2]])),
    logical("logical_and", np.logical_and),
    logical("logical_or", np.logical_or),
    logical("logical_xor", np.logical_xor),
    Case(
        "select",
        [X],
        lambda a: mb.select(cond=mb.greater_equal(x=a, y=0.5), a=a, b=mb.mul(x=a, y=2.0)),
        lambda a: torch.where(a >= 0.5, a, 2 * a),
    ),
    Case(
        "select",
        [X],
        lambda a: mb.select(cond=mb.greater(x=a, y=0.0), a=a, b=np.float32(-np.inf)),
        lambda a: torch.where(a > 0, a, -torch.inf),
        note="infinity",
    ),
]
CASTS = [
    Case("cast", [ROWS * 9], lambda a: mb.cast(x=mb.cast(x=a, dtype="int32"), dtype="fp32"), torch.trunc),
    Case("cast", [ROWS], lambda a: mb.cast(x=a, dtype="bool"), lambda a: a != 0, note="bool"),
    Case(
        "cast",
        [ROWS * 1.25],
        lambda a: mb.cast(x=mb.cast(x=a, dtype="fp16"), dtype="fp32"),
        lambda a: a.half().float(),
        note="fp16",
    ),
    *(
        Case(
            "cast", [np.abs(ROWS) * 16], lambda a, kind=kind: mb.cast(x=a, dtype=kind), torch.trunc, "iOS17", note=kind
        )
        for kind in ("int8", "uint8", "int16", "uint16")
    ),
]
ALPHA, BETA = values(4), np.abs(values(4)) + np.float32(0.5)
CHANNELS = (1, 4, 1, 1)
ACTIVATIONS = [
    Case(
        "clamped_relu",
        [X * 3],
        lambda a: mb.clamped_relu(x=a, alpha=0.5, beta=1.5),
        lambda a: torch.minimum(F.leaky_relu(a, 0.5), torch.tensor(1.5)),
    ),
    Case("elu", [X], lambda a: mb.elu(x=a, alpha=0.75), lambda a: F.elu(a, 0.75)),
    Case(
        "gelu",
        [X],
        lambda a: mb.gelu(x=a, mode="EXACT"),
        lambda a: 0.5 * a.numpy() * (1 + ERF(a.numpy() / math.sqrt(2))),
    ),
    Case(
        "gelu",
        [X],
        lambda a: mb.gelu(x=a, mode="TANH_APPROXIMATION"),
        lambda a: F.gelu(a, approximate="tanh"),
        note="tanh",
    ),
    Case(
        "gelu",
        [X],
        lambda a: mb.gelu(x=a, mode="SIGMOID_APPROXIMATION"),
        lambda a: a * torch.sigmoid(1.702 * a),
        note="sigmoid",
    ),
    Case("leaky_relu", [X], lambda a: mb.leaky_relu(x=a, alpha=0.125), lambda a: F.leaky_relu(a, 0.125)),
    Case("linear_activation", [X], lambda a: mb.linear_activation(x=a, alpha=0.5, beta=-2.0), lambda a: 0.5 * a - 2),
    Case("prelu", [X], lambda a: mb.prelu(x=a, alpha=ALPHA), lambda a: F.prelu(a, T(ALPHA))),
    Case("scaled_tanh", [X], lambda a: mb.scaled_tanh(x=a, alpha=1.5, beta=0.5), lambda a: 1.5 * torch.tanh(0.5 * a)),
    Case("sigmoid_hard", [X * 3], lambda a: mb.sigmoid_hard(x=a, alpha=1 / 6, beta=0.5), F.hardsigmoid),
    Case("softmax", [ROWS], lambda a: mb.softmax(x=a, axis=1), lambda a: a.softmax(1)),
    Case("softmax", [ROWS], lambda a: mb.softmax(x=a), lambda a: a.softmax(-1), note="default"),
    Case(
        "softplus_parametric",
        [X],
        lambda a: mb.softplus_parametric(x=a, alpha=ALPHA, beta=BETA),
        lambda a: T(ALPHA).reshape(CHANNELS) * torch.log1p(torch.exp(T(BETA).reshape(CHANNELS) * a)),
    ),
    Case("thresholded_relu", [X], lambda a: mb.thresholded_relu(x=a, alpha=0.25), lambda a: a * (a >= 0.25)),
]


def reduction(name, reference, x=X):
    """Over two axes, over all of them, and over a negative one that is kept."""
    return [
        Case(
            name,
            [x],
            lambda a: getattr(mb, name)(x=a, axes=[1, 3]),
            lambda a: reference(a.double(), (1, 3), False),
            note="axes",
        ),
        Case(
            name,
            [x],
            lambda a: getattr(mb, name)(x=a),
            lambda a: reference(a.double(), tuple(range(x.ndim)), False),
            note="all",
            half=name not in ("reduce_prod", "reduce_sum_square"),
        ),
        Case(
            name,
            [x],
            lambda a: getattr(mb, name)(x=a, axes=[-2], keep_dims=True),
            lambda a: reference(a.double(), (-2,), True),
            note="kept",
        ),
    ]


def product(a, axes, keep):
    return np.prod(a.numpy(), axes, keepdims=keep)


REDUCTIONS = [
    *reduction("reduce_sum", torch.sum),
    *reduction("reduce_mean", torch.mean),
    *reduction("reduce_max", torch.amax),
    *reduction("reduce_min", torch.amin),
    *reduction("reduce_prod", product, np.abs(X) + np.float32(0.5)),
    *reduction("reduce_l1_norm", lambda a, axes, keep: a.abs().sum(axes, keepdim=keep)),
    *reduction("reduce_l2_norm", lambda a, axes, keep: torch.linalg.vector_norm(a, 2, axes, keep)),
    *reduction("reduce_log_sum", lambda a, axes, keep: a.sum(axes, keepdim=keep).log(), np.abs(X)),
    *reduction("reduce_log_sum_exp", torch.logsumexp),
    *reduction("reduce_sum_square", lambda a, axes, keep: (a * a).sum(axes, keepdim=keep)),
    Case("reduce_sum", [WHOLES], lambda a: mb.reduce_sum(x=a, axes=[1]), lambda a: a.sum(1), note="int"),
    Case("reduce_max", [WHOLES], lambda a: mb.reduce_max(x=a, axes=[0]), lambda a: a.amax(0), note="int"),
    Case("reduce_argmax", [DISTINCT], lambda a: mb.reduce_argmax(x=a, axis=-1), lambda a: a.argmax(-1)),
    Case(
        "reduce_argmax",
        [DISTINCT],
        lambda a: mb.reduce_argmax(x=a, axis=1, keep_dims=True, output_dtype="uint16"),
        lambda a: a.argmax(1, keepdim=True),
        "iOS17",
        note="uint16",
    ),
    Case("reduce_argmin", [DISTINCT], lambda a: mb.reduce_argmin(x=a, axis=0), lambda a: a.argmin(0)),
    Case("argsort", [DISTINCT], lambda a: mb.argsort(x=a, axis=1), lambda a: np.argsort(-a.numpy(), 1)),
    Case(
        "argsort",
        [DISTINCT],
        lambda a: mb.argsort(x=a, ascending=True),
        lambda a: np.argsort(a.numpy(), -1),
        note="ascending",
    ),
    Case("topk", [DISTINCT], lambda a: mb.topk(x=a, k=2, axis=-1), lambda a: a.topk(2, -1)),
    Case(
        "topk",
        [DISTINCT],
        lambda a: mb.topk(x=a, k=2, axis=1, ascending=True),
        lambda a: a.topk(2, 1, largest=False),
        note="ascending",
    ),
    Case(
        "topk",
        [DISTINCT],
        lambda a: mb.topk(x=a, k=2, axis=0, return_indices=False),
        lambda a: a.sort(0, descending=True).values,
        "iOS17",
        note="values",
    ),
    Case("cumsum", [ROWS], lambda a: mb.cumsum(x=a, axis=1), lambda a: a.cumsum(1)),
    Case(
        "cumsum",
        [ROWS],
        lambda a: mb.cumsum(x=a, axis=2, reverse=True, exclusive=True),
        lambda a: a.flip(2).cumsum(2).flip(2) - a,
        note="reverse exclusive",
    ),
]
CASES = [*UNARY, *BINARY, *CASTS, *ACTIVATIONS, *REDUCTIONS]
