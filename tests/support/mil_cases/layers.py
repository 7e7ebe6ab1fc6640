"""Convolutions, pooling, matrix products, attention, norms and resizing against PyTorch's modules."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_fixtures import Case, T, mb, values

X1, X2, X3 = values(2, 4, 9), values(2, 4, 9, 7), values(1, 2, 5, 6, 4)
W1, W2, W3 = values(6, 4, 3, scale=0.3), values(6, 2, 3, 2, scale=0.3), values(4, 2, 2, 3, 2, scale=0.3)
DEPTHWISE, EVEN = values(8, 1, 3, 3, scale=0.3), values(6, 4, 4, 2, scale=0.3)
T1, T2, T3 = values(4, 3, 3, scale=0.3), values(4, 3, 3, 2, scale=0.3), values(2, 2, 2, 3, 2, scale=0.3)
BIAS4, BIAS6 = values(4), values(6)
ROWS = values(2, 3, 8)


def same(x, weight, strides, lower=False, dilations=(1, 1), groups=1):
    """TensorFlow's SAME: ceil(size / stride) remain, the odd one at the end (lower: at the start)."""
    amounts = []
    for size, kernel, step, gap in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True):
        total = max((-(-size // step) - 1) * step + (kernel - 1) * gap + 1 - size, 0)
        amounts.append((total - total // 2, total // 2) if lower else (total // 2, total - total // 2))
    around = np.pad(x.numpy(), [(0, 0), (0, 0), *amounts])
    return F.conv2d(T(around), T(weight), None, strides, 0, dilations, groups)


def padded(x, top, bottom, left, right, value=0.0):
    return T(np.pad(x.numpy(), [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=value))


CONVOLUTIONS = [
    Case(
        "conv",
        [X1],
        lambda x: mb.conv(x=x, weight=W1, bias=BIAS6, strides=[2], pad_type="custom", pad=[1, 1]),
        lambda x: F.conv1d(x, T(W1), T(BIAS6), 2, 1),
        note="1d",
    ),
    Case(
        "conv",
        [X2],
        lambda x: mb.conv(x=x, weight=W2, bias=BIAS6, groups=2, strides=[2, 1], pad_type="custom", pad=[1, 1, 2, 2]),
        lambda x: F.conv2d(x, T(W2), T(BIAS6), (2, 1), (1, 2), 1, 2),
        note="2d groups",
    ),
    Case(
        "conv",
        [X2],
        lambda x: mb.conv(x=x, weight=EVEN, pad_type="custom", pad=[0, 1, 2, 3], dilations=[2, 1]),
        lambda x: F.conv2d(padded(x, 0, 1, 2, 3), T(EVEN), None, 1, 0, (2, 1)),
        note="unequal padding",
    ),
    Case(
        "conv",
        [X2],
        lambda x: mb.conv(x=x, weight=DEPTHWISE, groups=4, pad_type="valid"),
        lambda x: F.conv2d(x, T(DEPTHWISE), groups=4),
        note="depthwise",
    ),
    Case(
        "conv",
        [X2],
        lambda x: mb.conv(x=x, weight=EVEN, pad_type="same"),
        lambda x: F.conv2d(x, T(EVEN), padding="same"),
        note="same",
    ),
    Case(
        "conv",
        [X2],
        lambda x: mb.conv(x=x, weight=EVEN, strides=[2, 3], pad_type="same"),
        lambda x: same(x, EVEN, (2, 3)),
        note="same strides",
    ),
    Case(
        "conv",
        [X2],
        lambda x: mb.conv(x=x, weight=EVEN, strides=[2, 1], dilations=[1, 2], pad_type="same_lower"),
        lambda x: same(x, EVEN, (2, 1), lower=True, dilations=(1, 2)),
        note="same_lower",
    ),
    Case(
        "conv",
        [X3],
        lambda x: mb.conv(x=x, weight=W3, bias=BIAS4, strides=[1, 2, 1], dilations=[2, 1, 1]),
        lambda x: F.conv3d(x, T(W3), T(BIAS4), (1, 2, 1), 0, (2, 1, 1)),
        note="3d",
    ),
    Case("conv", [X2, EVEN], lambda x, w: mb.conv(x=x, weight=w), F.conv2d, note="weight given"),
    Case(
        "conv_transpose",
        [X1],
        lambda x: mb.conv_transpose(x=x, weight=T1, strides=[2]),
        lambda x: F.conv_transpose1d(x, T(T1), None, 2),
        note="1d",
    ),
    Case(
        "conv_transpose",
        [X2],
        lambda x: mb.conv_transpose(
            x=x,
            weight=T2,
            bias=BIAS6,
            groups=2,
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 0, 0],
        ),
        lambda x: F.conv_transpose2d(x, T(T2), T(BIAS6), 2, (1, 0), 0, 2),
        note="2d groups",
    ),
    Case(
        "conv_transpose",
        [X2],
        lambda x: mb.conv_transpose(x=x, weight=T2, strides=[2, 1], pad_type="custom", pad=[1, 0, 0, 1]),
        lambda x: F.conv_transpose2d(x, T(T2), None, (2, 1))[:, :, 1:, :-1],
        note="unequal padding",
    ),
    Case(
        "conv_transpose",
        [X2],
        lambda x: mb.conv_transpose(
            x=x,
            weight=T2,
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 0, 0],
            output_shape=[2, 3, 17, 14],
        ),
        lambda x: F.conv_transpose2d(x, T(T2), None, 2, (1, 0)),
        note="output_shape",
    ),
    Case(
        "conv_transpose",
        [X2],
        lambda x: mb.conv_transpose(x=x, weight=T2, strides=[2, 2], pad_type="same"),
        lambda x: transposed_same(x, T2, (2, 2)),
        note="same",
    ),
    Case(
        "conv_transpose",
        [X2],
        lambda x: mb.conv_transpose(x=x, weight=T2, strides=[2, 4], pad_type="same"),
        lambda x: transposed_same(x, T2, (2, 4)),
        note="same beyond the kernel",
    ),
    Case(
        "conv_transpose",
        [X3],
        lambda x: mb.conv_transpose(x=x, weight=T3, strides=[1, 2, 1], dilations=[2, 1, 1]),
        lambda x: F.conv_transpose3d(x, T(T3), None, (1, 2, 1), 0, 0, 1, (2, 1, 1)),
        note="3d",
    ),
]


def transposed_same(x, weight, strides):
    """The gradient of a SAME convolution with respect to its input, by autograd."""
    picture = torch.zeros(x.shape[0], weight.shape[1], x.shape[2] * strides[0], x.shape[3] * strides[1])
    picture.requires_grad_()
    amounts = []
    for size, kernel, step in zip(picture.shape[2:], weight.shape[2:], strides, strict=True):
        total = max((-(-size // step) - 1) * step + kernel - size, 0)
        amounts.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = amounts
    forward = F.conv2d(F.pad(picture, (left, right, top, bottom)), T(weight), None, strides)
    return torch.autograd.grad(forward, picture, x)[0]


def l2(x, kernel, stride):
    return F.avg_pool2d(x * x, kernel, stride).mul(math.prod(kernel)).sqrt()


POOLS = [
    Case(
        "avg_pool",
        [X1],
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="valid"),
        lambda x: F.avg_pool1d(x, 3, 2),
        note="1d",
    ),
    Case(
        "avg_pool",
        [X2],
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1),
        note="padding counts",
    ),
    Case(
        "avg_pool",
        [X2],
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 2],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False),
        note="padding excluded",
    ),
    Case(
        "avg_pool",
        [X2],
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[2, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
        ),
        lambda x: F.avg_pool2d(x, (2, 3), 2, 1, ceil_mode=True),
        note="ceil",
    ),
    Case(
        "avg_pool",
        [X2],
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], pad_type="same_lower"),
        lambda x: F.avg_pool2d(padded(x, 1, 0, 1, 0), 2, 1),
        note="same_lower",
    ),
    Case(
        "avg_pool",
        [X3],
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 3, 2], strides=[1, 2, 2], pad_type="valid"),
        lambda x: F.avg_pool3d(x, (2, 3, 2), (1, 2, 2)),
        note="3d",
    ),
    Case(
        "max_pool",
        [X1],
        lambda x: mb.max_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="valid"),
        lambda x: F.max_pool1d(x, 3, 2),
        note="1d",
    ),
    Case(
        "max_pool",
        [X2 - 9],
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        note="2d",
    ),
    Case(
        "max_pool",
        [X2 - 9],
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 2], strides=[2, 3], pad_type="valid", ceil_mode=True),
        lambda x: F.max_pool2d(x, (3, 2), (2, 3), ceil_mode=True),
        note="ceil",
    ),
    Case(
        "max_pool",
        [X2 - 9],
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="same"),
        lambda x: F.max_pool2d(padded(x, 0, 1, 0, 1, -np.inf), 2, 2),
        note="same",
    ),
    Case(
        "max_pool",
        [X3],
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 3, 2], pad_type="valid"),
        lambda x: F.max_pool3d(x, (2, 3, 2), 1),
        note="3d",
    ),
    Case(
        "l2_pool",
        [X2],
        lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 3], strides=[1, 2], pad_type="valid"),
        lambda x: l2(x, (2, 3), (1, 2)),
    ),
]
WEIGHT, GAMMA, BETA, MEAN, SPREAD = values(5, 8), values(4), values(4), values(4), np.abs(values(4)) + np.float32(0.5)
G8, B8 = values(8), values(8)
Q, K, V = values(2, 3, 5, 8), values(2, 3, 7, 8), values(2, 3, 7, 4)
MASK = np.where(np.random.default_rng(3).random((5, 7)) < 0.4, -np.inf, 0).astype(np.float32)
MASK[:, 0] = 0


def attended(q, k, v, mask=None):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1) @ v


PRODUCTS = [
    Case("matmul", [ROWS], lambda x: mb.matmul(x=x, y=ROWS, transpose_y=True), lambda x: x @ T(ROWS).mT, note="y"),
    Case("matmul", [ROWS], lambda x: mb.matmul(x=x, y=ROWS, transpose_x=True), lambda x: x.mT @ T(ROWS), note="x"),
    Case(
        "matmul",
        [values(4, 3, 8), values(2, 1, 8, 5)],
        lambda x, y: mb.matmul(x=x, y=y),
        torch.matmul,
        note="broadcast",
    ),
    Case("matmul", [values(8), values(8, 5)], lambda x, y: mb.matmul(x=x, y=y), torch.matmul, note="vector"),
    Case(
        "linear",
        [ROWS],
        lambda x: mb.linear(x=x, weight=WEIGHT, bias=B8[:5]),
        lambda x: F.linear(x, T(WEIGHT), T(B8[:5])),
    ),
    Case("linear", [ROWS], lambda x: mb.linear(x=x, weight=WEIGHT), lambda x: F.linear(x, T(WEIGHT)), note="no bias"),
    Case(
        "einsum",
        [values(1, 3, 2, 5), values(2, 5, 1, 4)],
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: np.einsum("nchw,nwhu->nchu", x.expand(2, 3, 2, 5), y.expand(2, 5, 2, 4)),
    ),
    Case(
        "einsum",
        [values(3, 2, 5), values(5, 2, 4)],
        lambda x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"),
        lambda x, y: np.einsum("chw,whr->chr", x, y),
        note="rank 3",
    ),
    Case(
        "scaled_dot_product_attention",
        [Q, K, V],
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
        attended,
        "iOS18",
    ),
    Case(
        "scaled_dot_product_attention",
        [Q, K, V],
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=MASK),
        lambda q, k, v: attended(q, k, v, T(MASK)),
        "iOS18",
        note="float mask",
    ),
    Case(
        "scaled_dot_product_attention",
        [Q, K, V],
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=MASK == 0),
        lambda q, k, v: attended(q, k, v, T(MASK)),
        "iOS18",
        note="bool mask",
    ),
]
NORMS = [
    Case(
        "layer_norm",
        [ROWS],
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=G8, beta=B8, epsilon=1e-3),
        lambda x: F.layer_norm(x, (8,), T(G8), T(B8), 1e-3),
    ),
    Case(
        "layer_norm",
        [X2],
        lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA, epsilon=1e-3),
        lambda x: F.layer_norm(x.transpose(1, 3), (4,), T(GAMMA), T(BETA), 1e-3).transpose(1, 3),
        note="channels",
    ),
    Case(
        "layer_norm",
        [X2],
        lambda x: mb.layer_norm(x=x, axes=[2, -1]),
        lambda x: F.layer_norm(x, (9, 7)),
        note="two axes",
    ),
    Case(
        "batch_norm",
        [X2],
        lambda x: mb.batch_norm(x=x, mean=MEAN, variance=SPREAD, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        lambda x: F.batch_norm(x, T(MEAN), T(SPREAD), T(GAMMA), T(BETA), eps=1e-3),
    ),
    Case(
        "batch_norm",
        [X1],
        lambda x: mb.batch_norm(x=x, mean=MEAN, variance=SPREAD),
        lambda x: F.batch_norm(x, T(MEAN), T(SPREAD)),
        note="1d",
    ),
    Case(
        "instance_norm",
        [X2],
        lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        lambda x: F.group_norm(x, 4, T(GAMMA), T(BETA), 1e-3),
    ),
    Case("instance_norm", [X1], lambda x: mb.instance_norm(x=x), lambda x: F.group_norm(x, 4), note="1d"),
    Case(
        "l2_norm",
        [X2],
        lambda x: mb.l2_norm(x=x, epsilon=1e-3),
        lambda x: x / (x.flatten(1).square().sum(1) + 1e-3).sqrt().reshape(2, 1, 1, 1),
    ),
    Case(
        "local_response_norm",
        [X2],
        lambda x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.75, k=2.0),
        lambda x: F.local_response_norm(x, 3, 0.5, 0.75, 2.0),
    ),
]
PICTURE, LINE = values(1, 2, 5, 6), values(1, 1, 2)
GRID = values(1, 4, 3, 2, scale=0.5)


def resized(x, size, aligned=False):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=aligned)


def on_line(points):
    """The values 0 and 1 sampled at these points, as coremltools' reference lists them."""
    return lambda x: torch.tensor(points, dtype=torch.float32).reshape(1, 1, -1) * (x[..., 1] - x[..., 0]) + x[..., :1]


def bilinear(mode, points):
    return Case(
        "resize_bilinear",
        [LINE],
        lambda x: mb.resize_bilinear(x=x, target_size_height=1, target_size_width=5, sampling_mode=mode),
        on_line(points),
        note=mode,
    )


RESIZING = [
    Case(
        "upsample_nearest_neighbor",
        [PICTURE],
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    ),
    Case(
        "upsample_nearest_neighbor",
        [PICTURE],
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.5, scale_factor_width=1.5),
        lambda x: F.interpolate(x, scale_factor=(2.5, 1.5)),
        note="fractions",
    ),
    Case(
        "resize_nearest_neighbor",
        [PICTURE],
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=8, target_size_width=4),
        lambda x: F.interpolate(x, size=(8, 4), mode="nearest-exact"),
    ),
    Case(
        "upsample_bilinear",
        [PICTURE],
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        lambda x: resized(x, (10, 18)),
    ),
    Case(
        "upsample_bilinear",
        [PICTURE],
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2.5, scale_factor_width=1.4, align_corners=True),
        lambda x: resized(x, (12, 8), aligned=True),
        note="aligned",
    ),
    Case(
        "upsample_bilinear",
        [LINE],
        lambda x: mb.upsample_bilinear(
            x=x,
            scale_factor_height=1.0,
            scale_factor_width=2.6,
            align_corners=False,
            half_pixel_centers=False,
        ),
        on_line([0, 0.4, 0.8, 1, 1]),
        note="from the corner",
    ),
    Case(
        "resize_bilinear",
        [PICTURE],
        lambda x: mb.resize_bilinear(x=x, target_size_height=3, target_size_width=9, sampling_mode="UNALIGN_CORNERS"),
        lambda x: resized(x, (3, 9)),
        note="2d",
    ),
    bilinear("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
    bilinear("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    bilinear("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    bilinear("DEFAULT", [0, 0.4, 0.8, 1, 1]),
    bilinear("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    Case(
        "resize",
        [PICTURE],
        lambda x: mb.resize(
            x=x, shape=np.int32([1, 10, 0]), resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: resized(x, (10, 6)),
        "iOS17",
    ),
    Case(
        "resize",
        [LINE.reshape(1, 1, 2, 1)],
        lambda x: mb.resize(
            x=x,
            shape=np.int32([1, 1, 3, 2]),
            resized_dims=np.uint32(2),
            interpolation_mode="NEAREST_NEIGHBOR",
        ),
        lambda x: x[:, :, [0, 1, 1]].repeat(1, 1, 1, 2),
        "iOS17",
        note="nearest",
    ),
    *(
        Case(
            "resample",
            [PICTURE, GRID * 2],
            lambda x, g, mode=mode, edge=edge, aligned=aligned: mb.resample(
                x=x,
                coordinates=g,
                sampling_mode=mode,
                padding_mode=edge,
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=aligned,
            ),
            lambda x, g, mode=mode, theirs=theirs, aligned=aligned: F.grid_sample(x, g, mode, theirs, aligned),
            half=mode == "bilinear" and aligned,
            note=f"{mode} {edge}",
        )
        for mode, edge, theirs, aligned in (
            ("bilinear", "constant", "zeros", True),
            ("nearest", "border", "border", False),
            ("bilinear", "reflection", "reflection", True),
            ("bilinear", "symmetric", "reflection", False),
        )
    ),
]
CASES = [*CONVOLUTIONS, *POOLS, *PRODUCTS, *NORMS, *RESIZING]
