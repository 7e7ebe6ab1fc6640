"""Quantized tensors within a program, and back, by the formula in coremltools' documentation."""

from __future__ import annotations

import numpy as np

from tests.support.mil_fixtures import Case, mb, values

X, ROWS = values(2, 4, 3, 5), values(2, 64)
SCALES = np.float32([0.5, 0.25, 1.0, 0.125])
ZEROS = {"int8": np.int8([0, -3, 5, 100]), "uint8": np.uint8([128, 3, 5, 100])}
LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
HALVES = (np.arange(-40, 40, dtype=np.float32) / 8).reshape(1, 80)  # many are halfway between two steps of 0.25


def steps(x, scale, zero, dtype, axis=None):
    """clip(round(x / scale) + zero), rounding halves to even."""
    if axis is not None:
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        scale, zero = np.reshape(scale, shape), np.reshape(zero, shape)
    return np.clip(np.round(x.numpy().astype(np.float64) / scale) + np.float64(zero), *LIMITS[dtype])


def there_and_back(x, dtype, axis):
    coded = mb.quantize(input=x, scale=SCALES, zero_point=ZEROS[dtype], axis=axis, output_dtype=dtype)
    return mb.dequantize(input=coded, scale=SCALES, zero_point=ZEROS[dtype], axis=axis)


def back(x, dtype):
    shape = (1, 4, 1, 1)
    zero = ZEROS[dtype].astype(np.float64)
    return (steps(x, SCALES, zero, dtype, 1) - zero.reshape(shape)) * SCALES.reshape(shape)


CASES = [
    Case(
        "quantize",
        [HALVES],
        lambda x: mb.quantize(input=x, scale=np.float32(0.25), output_dtype="int8"),
        lambda x: steps(x, 0.25, 0, "int8"),
        "iOS17",
        half=False,
        note="int8 halves",
    ),
    Case(
        "quantize",
        [X * 20],
        lambda x: mb.quantize(input=x, scale=np.float32(0.25), zero_point=np.uint8(100), output_dtype="uint8"),
        lambda x: steps(x, 0.25, 100, "uint8"),
        "iOS17",
        half=False,
        note="uint8 clipped",
    ),
    *(
        Case(
            "dequantize",
            [X * 8],
            lambda x, dtype=dtype, axis=axis: there_and_back(x, dtype, axis),
            lambda x, dtype=dtype: back(x, dtype),
            "iOS17",
            half=False,
            note=f"{dtype} axis {axis}",
        )
        for dtype in ("int8", "uint8")
        for axis in (1, -3)
    ),
    Case(
        "dequantize",
        [X],
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=np.float32(0.25), output_dtype="int8"),
            scale=np.float32(0.5),
        ),
        lambda x: steps(x, 0.25, 0, "int8") * 0.5,
        "iOS17",
        half=False,
        note="no zero_point",
    ),
]
