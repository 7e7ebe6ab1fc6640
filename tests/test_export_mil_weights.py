"""Every way to store weights, and rounding to codes, against coremltools' own expansion."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression
from coremltools.optimize._utils import quantize_by_scale_and_zp
from hypothesis import given, settings
from hypothesis import strategies as st

from export.mil import Program
from export.mil.ops.weights import constexpr_lut_to_dense, quantize, unpacked
from export.mil.values import Constant
from tests.support.mil_cases.weights import HALVES, LIMITS, ROWS
from tests.support.mil_fixtures import RNG, mb, run, save, values

RANGES = {"int4": (-8, 7), "uint4": (0, 15), **LIMITS}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8),
    st.sampled_from([0.25, 0.1, 3.0, 0.0078125]),
    st.sampled_from(["int8", "uint8"]),
    st.integers(0, 100),
)
def test_quantize_is_coremltools_own(numbers: list[float], scale: float, dtype: str, zero: int) -> None:
    x = np.float32(numbers)
    ours = quantize(torch.from_numpy(x), torch.tensor(scale), dtype, torch.tensor(zero)).numpy()
    theirs = quantize_by_scale_and_zp(x, np.float32(scale), np.float32(zero), dtype)
    assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()


def test_halves_go_to_even_in_fp16_too(tmp_path: Path) -> None:
    def build(x):
        half = mb.cast(x=x, dtype="fp16")
        return mb.quantize(input=half, scale=np.float16(0.25), output_dtype="int8")

    path = save(tmp_path, build, [HALVES], "iOS17")
    assert run(path, [HALVES]).tolist() == np.round(HALVES * 4).tolist()


@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_codes_are_packed_from_the_lowest_bit_up(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    stream = np.concatenate([np.unpackbits(code[None], bitorder="little")[:bits] for code in codes])
    data = np.packbits(stream, bitorder="little")
    assert unpacked(data, bits, count).tolist() == codes.tolist()


def weight_of(path: Path, op: str = "linear") -> np.ndarray:
    """The weight of the program's one such operation, as it is expanded."""
    (step,) = [step for step in Program(path).steps if step.type == op]
    weight = dict(step.arguments)["weight"]
    assert isinstance(weight, Constant)
    return weight.get(False).numpy()


def stored(folder: Path, change, target="iOS18", half=True, conv=False) -> tuple[Path, Path]:
    """A package with a weight that coremltools compressed, and the same expanded by coremltools."""
    shape = (32, 8, 3, 3) if conv else (32, 64)
    weight, x = values(*shape, scale=0.2), values(1, 8, 5, 5) if conv else ROWS

    def build(a):
        return mb.conv(x=a, weight=weight) if conv else mb.linear(x=a, weight=weight)

    model = ct.models.MLModel(str(save(folder, build, [x], target, half)), skip_model_load=True)
    compressed = change(model)
    compressed.save(str(folder / "compressed.mlpackage"))
    cto.decompress_weights(compressed).save(str(folder / "expanded.mlpackage"))
    return folder / "compressed.mlpackage", folder / "expanded.mlpackage"


def configured(config):
    return cto.OptimizationConfig(global_config=config)


def palettized(**options):
    config = configured(cto.OpPalettizerConfig(mode="uniform", weight_threshold=0, **options))
    return lambda model: cto.palettize_weights(model, config)


def linear(**options):
    config = cto.OpLinearQuantizerConfig(weight_threshold=0, **options)
    return lambda model: cto.linear_quantize_weights(model, configured(config))


def pruned(model):
    return cto.prune_weights(model, configured(cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=0)))


def pruned_and_palettized(model):
    config = configured(cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=0))
    return cto.palettize_weights(pruned(model), config, joint_compression=True)


def pruned_and_quantized(model):
    config = configured(cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0))
    return cto.linear_quantize_weights(pruned(model), config, joint_compression=True)


FORMS = {
    **{f"palette {n} bits": ("iOS16", palettized(nbits=n), "constexpr_lut_to_dense") for n in (1, 2, 4, 6, 8)},
    **{f"palette {n} bits iOS18": ("iOS18", palettized(nbits=n), "constexpr_lut_to_dense") for n in (1, 2, 3, 4, 6, 8)},
    "grouped channels": (
        "iOS18",
        palettized(nbits=4, granularity="per_grouped_channel", group_size=8),
        "constexpr_lut_to_dense",
    ),
    "grouped inputs": (
        "iOS18",
        palettized(nbits=3, granularity="per_grouped_channel", group_size=4, channel_axis=1),
        "constexpr_lut_to_dense",
    ),
    "int8": ("iOS16", linear(dtype="int8"), "constexpr_affine_dequantize"),
    "uint8 tensor": (
        "iOS16",
        linear(dtype="uint8", mode="linear", granularity="per_tensor"),
        "constexpr_affine_dequantize",
    ),
    "int8 iOS18": ("iOS18", linear(dtype="int8"), "constexpr_blockwise_shift_scale"),
    "int4 block": (
        "iOS18",
        linear(dtype="int4", granularity="per_block", block_size=4),
        "constexpr_blockwise_shift_scale",
    ),
    "uint4 tensor": (
        "iOS18",
        linear(dtype="uint4", mode="linear", granularity="per_tensor"),
        "constexpr_blockwise_shift_scale",
    ),
    "uint4 block": (
        "iOS18",
        linear(dtype="uint4", mode="linear", granularity="per_block", block_size=4),
        "constexpr_blockwise_shift_scale",
    ),
    "pruned": ("iOS16", pruned, "constexpr_sparse_to_dense"),
    "pruned iOS18": ("iOS18", pruned, "constexpr_sparse_to_dense"),
    "pruned and palettized": ("iOS18", pruned_and_palettized, "constexpr_lut_to_sparse"),
    "pruned and quantized": ("iOS18", pruned_and_quantized, "constexpr_sparse_blockwise_shift_scale"),
}


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize("name", FORMS)
def test_weights_are_expanded_as_coremltools_does(name: str, conv: bool, tmp_path: Path) -> None:
    target, change, kind = FORMS[name]
    compressed, expanded = stored(tmp_path, change, target, conv=conv)
    assert kind in {op.type for op in Program(compressed).block.operations}
    op = "conv" if conv else "linear"
    ours, theirs = weight_of(compressed, op), weight_of(expanded, op)
    assert ours.dtype == theirs.dtype == np.float16
    assert np.array_equal(ours, theirs)


def test_fp32_weights_are_expanded_as_coremltools_does(tmp_path: Path) -> None:
    compressed, expanded = stored(tmp_path, linear(dtype="uint8", mode="linear"), "iOS16", half=False)
    ours, theirs = weight_of(compressed), weight_of(expanded)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs)


def expanded_in(folder: Path, build, target="iOS18") -> np.ndarray:
    """What a program with one constexpr operation, added to zeros, gives."""
    zeros = np.zeros((1,), np.float32)
    path = save(folder, lambda x: mb.add(x=x, y=build()), [zeros], target)
    return run(path, [zeros])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("groups", [(1, 1, 1), (2, 1, 1), (1, 2, 1)])
def test_vectors_in_a_table(axis: int, groups: tuple[int, ...], tmp_path: Path) -> None:
    codes = RNG.integers(0, 4, (4, 2, 3)).astype(types.nptype_from_builtin(types.uint2))
    lut = values(*groups, 4, 3)
    found = expanded_in(tmp_path, lambda: mb.constexpr_lut_to_dense(indices=codes, lut=lut, vector_axis=np.int32(axis)))
    expected = compression.constexpr_lut_to_dense.decompress(codes, lut, axis)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_codes_that_end_within_a_byte(bits: int, tmp_path: Path) -> None:
    kind = types.nptype_from_builtin(getattr(types, f"uint{bits}"))
    codes = RNG.integers(0, 2**bits, (5, 13)).astype(kind)
    lut = values(1, 1, 2**bits, 1)
    found = expanded_in(tmp_path, lambda: mb.constexpr_lut_to_dense(indices=codes, lut=lut))
    assert np.array_equal(found, lut.reshape(-1)[codes.astype(int)])


@pytest.mark.parametrize("name", ["int4", "uint4", "int8", "uint8"])
def test_blocks_with_an_offset(name: str, tmp_path: Path) -> None:
    kind, (low, high) = types.nptype_from_builtin(getattr(types, name)), RANGES[name]
    data = RNG.integers(low, high + 1, (6, 15)).astype(kind)
    scale, offset = values(3, 5), RNG.integers(low, high + 1, (3, 5)).astype(kind)
    found = expanded_in(tmp_path, lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset))
    shift = np.kron(offset.astype(np.float64), np.ones((2, 3)))
    expected = (data.astype(np.float64) - shift) * np.kron(scale, np.ones((2, 3)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_cast_weights(tmp_path: Path) -> None:
    weight = values(3, 4).astype(np.float16)
    found = expanded_in(tmp_path, lambda: mb.constexpr_cast(source_val=weight, output_dtype="fp32"), "iOS16")
    assert np.array_equal(found, weight.astype(np.float32))


def test_grouped_tables() -> None:
    indices = torch.tensor([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    dense = constexpr_lut_to_dense(indices, lut)
    assert dense.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]  # coremltools' own example


KINDS = {kind for _, _, kind in FORMS.values()} | {"constexpr_cast"}
