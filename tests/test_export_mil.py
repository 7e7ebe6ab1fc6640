"""The reference evaluator of Core ML programs: every operation against PyTorch, weights, rounding, refusals."""

from __future__ import annotations

import logging
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.mil import MilError, Program
from export.mil_data import constexpr_lut_to_dense
from export.mil_ops import CONSTANTS, OPERATIONS

logging.getLogger("coremltools").setLevel(logging.ERROR)
mb = ct.converters.mil.Builder

RNG = np.random.default_rng(0)


def values(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


X = values(1, 4, 6, 6)
ROWS = values(2, 3, 8)
POSITIVE = np.abs(values(2, 5)) + 0.5
KERNEL, BIAS = values(8, 2, 3, 3), values(8)
WEIGHT = values(5, 8)
GAMMA, BETA = values(8), values(8)
IDS = np.array([[3, 0, 4]], np.int32)
ALONG = np.array([[[0, 2], [1, 1]]], np.int32)
TABLE = values(5, 7)
T = torch.from_numpy

# name: (inputs, the program, what PyTorch makes of it)
CASES = {
    "add": ([X], lambda x: mb.add(x=x, y=X[:, :1]), lambda x: x + T(X[:, :1])),
    "sub": ([X], lambda x: mb.sub(x=x, y=X[:, :1]), lambda x: x - T(X[:, :1])),
    "mul": ([X], lambda x: mb.mul(x=x, y=X[..., :1]), lambda x: x * T(X[..., :1])),
    "real_div": ([ROWS], lambda x: mb.real_div(x=x, y=2.5), lambda x: x / 2.5),
    "cos": ([X], lambda x: mb.cos(x=x), torch.cos),
    "sin": ([X], lambda x: mb.sin(x=x), torch.sin),
    "relu": ([X], lambda x: mb.relu(x=x), F.relu),
    "sigmoid": ([X], lambda x: mb.sigmoid(x=x), torch.sigmoid),
    "silu": ([X], lambda x: mb.silu(x=x), F.silu),
    "tanh": ([X], lambda x: mb.tanh(x=x), torch.tanh),
    "sqrt": ([POSITIVE], lambda x: mb.sqrt(x=x), torch.sqrt),
    "square": ([X], lambda x: mb.square(x=x), torch.square),
    "rsqrt": ([POSITIVE], lambda x: mb.rsqrt(x=x, epsilon=1e-3), lambda x: torch.rsqrt(x + 1e-3)),
    "gelu": ([X], lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu),
    "gelu tanh": (
        [X], lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"), lambda x: F.gelu(x, approximate="tanh"),
    ),
    "gelu sigmoid": (
        [X], lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "softmax": ([ROWS], lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "matmul": (
        [ROWS], lambda x: mb.matmul(x=x, y=ROWS, transpose_y=True), lambda x: x @ T(ROWS).transpose(1, 2),
    ),
    "matmul x": (
        [ROWS], lambda x: mb.matmul(x=x, y=ROWS, transpose_x=True), lambda x: x.transpose(1, 2) @ T(ROWS),
    ),
    "linear": (
        [ROWS], lambda x: mb.linear(x=x, weight=WEIGHT, bias=BIAS[:5]),
        lambda x: F.linear(x, T(WEIGHT), T(BIAS[:5])),
    ),
    "einsum": (
        [values(1, 3, 2, 5), values(1, 5, 2, 4)],
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y),
    ),
    "conv": (
        [X],
        lambda x: mb.conv(
            x=x, weight=KERNEL, bias=BIAS, groups=2, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
        ),
        lambda x: F.conv2d(x, T(KERNEL), T(BIAS), 2, 1, 1, 2),
    ),
    "conv valid": (
        [X], lambda x: mb.conv(x=x, weight=KERNEL[:, :1], groups=4, dilations=[2, 2], pad_type="valid"),
        lambda x: F.conv2d(x, T(KERNEL[:, :1]), None, 1, 0, 2, 4),
    ),
    "layer_norm": (
        [ROWS], lambda x: mb.layer_norm(x=x, axes=[-1], gamma=GAMMA, beta=BETA, epsilon=1e-5),
        lambda x: F.layer_norm(x, (8,), T(GAMMA), T(BETA), 1e-5),
    ),
    "layer_norm channels": (
        [X], lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA[:4], beta=BETA[:4], epsilon=1e-5),
        lambda x: F.layer_norm(x.transpose(1, 3), (4,), T(GAMMA[:4]), T(BETA[:4]), 1e-5).transpose(1, 3),
    ),
    "batch_norm": (
        [X],
        lambda x: mb.batch_norm(
            x=x, mean=BIAS[:4], variance=POSITIVE[0, :4], gamma=GAMMA[:4], beta=BETA[:4], epsilon=1e-3
        ),
        lambda x: F.batch_norm(x, T(BIAS[:4]), T(POSITIVE[0, :4]), T(GAMMA[:4]), T(BETA[:4]), eps=1e-3),
    ),
    "reduce_mean": (
        [X], lambda x: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True), lambda x: x.mean((2, 3), keepdim=True),
    ),
    "reduce_argmax": ([ROWS], lambda x: mb.reduce_argmax(x=x, axis=-1), lambda x: x.argmax(-1)),
    "equal": (
        [ROWS], lambda x: mb.cast(x=mb.equal(x=mb.cast(x=x, dtype="int32"), y=0), dtype="fp32"),
        lambda x: (x.trunc() == 0).float(),
    ),
    "cast": ([ROWS * 9], lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"), torch.trunc),
    "select": (
        [ROWS], lambda x: mb.select(cond=mb.greater_equal(x=x, y=0.5), a=x, b=mb.mul(x=x, y=2.0)),
        lambda x: torch.where(x >= 0.5, x, 2 * x),
    ),
    "reshape": ([X], lambda x: mb.reshape(x=x, shape=[0, 2, -1, 3]), lambda x: x.reshape(1, 2, 24, 3)),
    "transpose": ([X], lambda x: mb.transpose(x=x, perm=[0, 2, 3, 1]), lambda x: x.permute(0, 2, 3, 1)),
    "expand_dims": (
        [ROWS], lambda x: mb.expand_dims(x=x, axes=[0, 3]), lambda x: x.unsqueeze(0).unsqueeze(3),
    ),
    "squeeze": ([X], lambda x: mb.squeeze(x=x, axes=[0]), lambda x: x.squeeze(0)),
    "concat": (
        [X], lambda x: mb.concat(values=(x, mb.relu(x=x)), axis=1), lambda x: torch.cat([x, F.relu(x)], 1),
    ),
    "split": (
        [X], lambda x: mb.sub(**dict(zip("xy", mb.split(x=x, num_splits=2, axis=1), strict=True))),
        lambda x: x[:, :2] - x[:, 2:],
    ),
    "split sizes": (
        [X], lambda x: mb.split(x=x, split_sizes=[1, 3], axis=1)[1], lambda x: x[:, 1:],
    ),
    "slice_by_index": (
        [X],
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 1, 0, 2], end=[1, 3, 0, 3], stride=[1, 1, 2, 1],
            end_mask=[False, False, True, False], squeeze_mask=[False, False, False, True],
        ),
        lambda x: x[:, 1:3, ::2, 2],
    ),
    "tile": ([ROWS], lambda x: mb.tile(x=x, reps=[1, 2, 3]), lambda x: x.repeat(1, 2, 3)),
    "gather": ([TABLE], lambda x: mb.gather(x=x, indices=IDS, axis=0), lambda x: x[T(IDS).long()]),
    "gather_along_axis": (
        [values(1, 3, 2)], lambda x: mb.gather_along_axis(x=x, indices=ALONG, axis=1),
        lambda x: x.gather(1, T(ALONG).long()),
    ),
    "upsample_nearest_neighbor": (
        [X], lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2),
        lambda x: F.interpolate(x, scale_factor=2),
    ),
}


def save(folder: Path, build, inputs, target="iOS16", half=False) -> Path:
    """A saved package of one small program; `half`: through coremltools' conversion to fp16."""
    specs = [mb.TensorSpec(shape=x.shape) for x in inputs]
    # the builder asks for a function of as many named arguments as there are inputs
    body = {1: lambda x: build(x), 2: lambda x, y: build(x, y)}[len(inputs)]
    made = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(body)
    options = {} if half else {"pass_pipeline": ct.PassPipeline.EMPTY}
    model = ct.convert(
        made,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=getattr(ct.target, target),
        skip_model_load=True,
        **options,
    )
    path = folder / "case.mlpackage"
    model.save(str(path))
    return path


def run(path: Path, inputs) -> np.ndarray:
    """The program's one output."""
    program = Program(path)
    (result,) = program.run(dict(zip((port.name for port in program.inputs), inputs, strict=True))).values()
    return result


@pytest.mark.parametrize("name", CASES)
def test_operation_equals_pytorch(name: str, tmp_path: Path) -> None:
    inputs, build, reference = CASES[name]
    path = save(tmp_path, build, inputs)
    kinds = {op.type for op in Program(path).block.operations}
    assert name.split()[0] in kinds
    expected = reference(*map(T, inputs)).numpy()
    np.testing.assert_allclose(run(path, inputs), expected, rtol=1e-5, atol=1e-5)


def test_every_known_operation_is_tested() -> None:
    assert {name.split()[0] for name in CASES} | {"greater_equal"} == set(OPERATIONS)
    assert set(CONSTANTS) == {"constexpr_lut_to_dense"}


def test_an_unknown_operation_is_an_error_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, lambda x: mb.erf(x=mb.relu(x=x)), [X])
    with pytest.raises(MilError, match="does not know erf"):
        Program(path)


def test_an_unknown_form_of_an_operation_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, lambda x: mb.concat(values=(x, x), axis=1, interleave=True), [X])
    with pytest.raises(MilError, match="concat.*interleave"):
        run(path, [X])


def test_a_tie_between_largest_values_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, lambda x: mb.reduce_argmax(x=x, axis=-1), [ROWS])
    with pytest.raises(MilError, match="tie"):
        run(path, [np.zeros_like(ROWS)])


def test_results_are_rounded_to_fp16_where_the_program_says_so(tmp_path: Path) -> None:
    big = np.full((1, 3), 2048, np.float32)
    path = save(tmp_path, lambda x: mb.add(x=mb.add(x=x, y=np.float32(1)), y=np.float32(1)), [big], half=True)
    assert run(path, [big]).tolist() == [[2048.0] * 3]  # in fp32 it would be 2050
    over = save(tmp_path, lambda x: mb.square(x=x), [big], half=True)
    assert np.isinf(run(over, [big])).all()  # fp16 ends at 65504


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("nbits", [1, 2, 4, 6, 8])
def test_palettized_weights_are_looked_up(target: str, nbits: int, tmp_path: Path) -> None:
    import coremltools.optimize.coreml as cto

    weight = RNG.choice(values(2**nbits), (64, 128)).astype(np.float32)
    rows = values(2, 128)
    path = save(tmp_path, lambda x: mb.linear(x=x, weight=weight), [rows], target)
    model = ct.models.MLModel(str(path), skip_model_load=True)
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(mode="unique"))
    cto.palettize_weights(model, config).save(str(path))
    assert "constexpr_lut_to_dense" in {op.type for op in Program(path).block.operations}
    np.testing.assert_allclose(run(path, [rows]), rows @ weight.T, rtol=1e-4, atol=1e-4)


def test_grouped_tables() -> None:
    indices = torch.tensor([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    dense = constexpr_lut_to_dense(indices, lut)
    assert dense.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    program = Program(save(tmp_path, lambda x: mb.relu(x=x), [X]))
    (port,) = program.inputs
    with pytest.raises(MilError, match="takes"):
        program.run({"y": X})
    with pytest.raises(MilError, match="must be"):
        program.run({port.name: X[:, :2]})


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MilError, match="is no Core ML package"):
        Program(tmp_path)
