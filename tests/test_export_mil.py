"""The evaluator of Core ML programs: rounding, overflow, whole models, refusals, damaged packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from export.mil import MilError, Program
from export.mil.describe import describe
from export.mil.ops import CONSTANTS, OPERATIONS
from export.mil.package import read_package
from tests import test_export_mil_weights
from tests.support.mil_cases import CASES
from tests.support.mil_fixtures import feed, mb, run, save, values

X, ROWS = values(1, 4, 6, 6), values(2, 3, 8)


def test_every_known_operation_is_tested() -> None:
    assert {case.op for case in CASES} == set(OPERATIONS)
    assert set(CONSTANTS) == test_export_mil_weights.KINDS


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A convolution, an activation and a linear layer, with weights in a file."""
    weight, rows = values(8, 4, 3, 3, scale=0.3), values(5, 16, scale=0.3)

    def build(x):
        hidden = mb.relu(x=mb.conv(x=x, weight=weight, name="first"), name="second")
        return mb.linear(x=mb.reshape(x=hidden, shape=[8, 16]), weight=rows, name="third")

    return save(tmp_path_factory.mktemp("mil"), build, [X], half=True)


def test_results_are_rounded_to_fp16_where_the_program_says_so(tmp_path: Path) -> None:
    big = np.full((1, 3), 2048, np.float32)
    path = save(tmp_path, lambda x: mb.add(x=mb.add(x=x, y=np.float32(1)), y=np.float32(1)), [big], half=True)
    assert run(path, [big]).tolist() == [[2048.0] * 3]  # in fp32 it would be 2050


def test_fp16_overflows_to_infinity_and_is_reported(tmp_path: Path) -> None:
    def build(x):
        squared = mb.square(x=x, name="squared")
        return mb.add(x=mb.mul(x=squared, y=np.float32(2), name="doubled"), y=np.float32(1))

    path = save(tmp_path, build, [ROWS], half=True)
    program = Program(path)
    assert np.isinf(program.run(feed(program, [np.full_like(ROWS, 300)]))[program.outputs[0].name]).all()
    assert [name.removesuffix("_cast_fp16") for name in program.overflows] == ["squared"]  # not what follows from it
    program.run(feed(program, [ROWS]))
    assert program.overflows == []


def test_an_infinite_mask_is_no_overflow(tmp_path: Path) -> None:
    mask = np.where(np.arange(8) > 3, -np.inf, 0).astype(np.float32)
    path = save(tmp_path, lambda x: mb.softmax(x=mb.add(x=x, y=mask), axis=-1), [ROWS], half=True)
    program = Program(path)
    program.run(feed(program, [ROWS]))
    assert program.overflows == []


def test_a_tie_is_broken_by_the_first_and_reported(tmp_path: Path) -> None:
    path = save(tmp_path, lambda x: mb.reduce_argmax(x=x, axis=-1, name="best"), [ROWS])
    program = Program(path)
    assert not program.run(feed(program, [np.zeros_like(ROWS)]))["best"].any()
    assert program.ambiguous == ["best"]
    program.run(feed(program, [np.arange(48, dtype=np.float32).reshape(2, 3, 8)]))
    assert program.ambiguous == []


def test_values_are_kept_and_observed_in_order(package: Path) -> None:
    program = Program(package)
    seen: dict[str, torch.Tensor] = {}
    keep = ["second_cast_fp16", "a"]
    found = program.run(feed(program, [X]), keep, observe=lambda name, x: seen.update({name: x}))
    floats = [port.name for port in program.values.values() if port.kind.is_float]
    assert list(seen) == ["a", *floats]
    assert np.array_equal(found["second_cast_fp16"], seen["second_cast_fp16"].numpy())
    assert found["second_cast_fp16"].dtype == np.float16 and found["second_cast_fp16"].min() == 0
    assert np.array_equal(found["a"], X)


def test_a_weight_can_be_looked_at(package: Path) -> None:
    program = Program(package)
    (name,) = [name for name in program.constants if name.startswith("first_weight") and name.endswith("fp16")]
    assert program.run(feed(program, [X]), keep=[name])[name].shape == (8, 4, 3, 3)


def test_a_wrong_name_is_answered_with_similar_ones(package: Path) -> None:
    program = Program(package)
    with pytest.raises(MilError, match="no value secnd.*second_cast_fp16"):
        program.run(feed(program, [X]), keep=["secnd"])


def test_weights_stay_on_the_disk_when_they_are_many(tmp_path: Path) -> None:
    weights = [values(512, 512, scale=0.02) for _ in range(8)]  # 8 MiB as fp32

    def build(x):
        for weight in weights:
            x = mb.linear(x=x, weight=weight)
        return x

    x = values(1, 512)
    path = save(tmp_path, build, [x], half=True)
    frugal, generous = Program(path, kept_bytes=0), Program(path)
    assert np.array_equal(*(p.run(feed(p, [x]))[p.outputs[0].name] for p in (frugal, generous)))
    held = [sum(bool(c.kept) for c in p.constants.values() if c.expanded_bytes >= 2**20) for p in (frugal, generous)]
    assert held == [0, 8]


class ConvNet(nn.Module):
    """What a small autoencoder's decoder is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.AvgPool2d(2),
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.Hardswish(),
            nn.PixelShuffle(2),
            nn.ReflectionPad2d(1),
            nn.Conv2d(2, 3, 3),
        )

    def forward(self, x):
        return torch.sigmoid(self.layers(x))


class Transformer(nn.Module):
    """Embedding, positions, causal attention, a feed-forward layer, the position of the largest token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, 32), nn.Parameter(torch.randn(9, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(9))

    def forward(self, ids):
        hidden = self.layer(self.tokens(ids) + self.positions, src_mask=self.mask)
        return hidden, hidden[torch.arange(ids.shape[0]), ids.argmax(-1)]


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], np.ndarray]] = {
    "conv net": (ConvNet, values(1, 4, 8, 8)),
    "transformer": (Transformer, np.array([[3, 8, 1, 22, 49, 0, 5, 7, 2]], np.int32)),
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_equals_pytorch(name: str, target: str, half: bool, tmp_path: Path) -> None:
    make, x = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    example = torch.from_numpy(x)
    program = torch.export.export(model, (example,)).run_decompositions({})
    ct.convert(
        program,
        inputs=[ct.TensorType(name="x", shape=x.shape, dtype=x.dtype.type)],
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=getattr(ct.target, target),
        skip_model_load=True,
    ).save(str(tmp_path / "m.mlpackage"))
    with torch.no_grad():
        expected = model(example)
    found = Program(tmp_path / "m.mlpackage").run({"x": x})
    for ours, theirs in zip(found.values(), expected if isinstance(expected, tuple) else [expected], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=2e-2 if half else 2e-5)


def test_flexible_shapes(tmp_path: Path) -> None:
    program = torch.export.export(
        nn.Conv2d(3, 2, 3),
        (torch.zeros(1, 3, 8, 8),),
        dynamic_shapes=({2: torch.export.Dim("h", min=4, max=32), 3: torch.export.Dim("w", min=4, max=32)},),
    ).run_decompositions({})
    shape = (1, 3, ct.RangeDim(4, 32, 12), ct.RangeDim(4, 32, 10))
    ct.convert(program, inputs=[ct.TensorType(name="x", shape=shape)], skip_model_load=True).save(
        str(tmp_path / "m.mlpackage")
    )
    program = Program(tmp_path / "m.mlpackage")
    assert program.inputs[0].shape == (1, 3, None, None)
    for size in ((5, 9), (20, 4)):
        (result,) = program.run({"x": values(1, 3, *size)}).values()
        assert result.shape == (1, 2, size[0] - 2, size[1] - 2)
    with pytest.raises(MilError, match="must be"):
        program.run({"x": values(1, 4, 8, 8)})


def test_one_of_several_functions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    doubled = save(tmp_path / "a", lambda x: mb.mul(x=x, y=2.0), [ROWS], "iOS18")
    tripled = save(tmp_path / "b", lambda x: mb.mul(x=x, y=3.0), [ROWS], "iOS18")
    functions = ct.utils.MultiFunctionDescriptor()
    functions.add_function(str(doubled), "main", "double")
    functions.add_function(str(tripled), "main", "triple")
    functions.default_function_name = "double"
    ct.utils.save_multifunction(functions, str(tmp_path / "two.mlpackage"))
    for name, factor in ((None, 2), ("double", 2), ("triple", 3)):
        program = Program(tmp_path / "two.mlpackage", name)
        (result,) = program.run(feed(program, [ROWS])).values()
        np.testing.assert_array_equal(result, ROWS * factor)
    with pytest.raises(MilError, match="no function main.*double, triple.*--function"):
        Program(tmp_path / "two.mlpackage", "main")


def test_unknown_operations_are_named_all_at_once(tmp_path: Path) -> None:
    def build(x):
        noise = mb.random_normal(shape=[1, 4, 6, 6])
        return mb.add(x=noise, y=mb.random_uniform(shape=[1, 4, 6, 6]))

    path = save(tmp_path, build, [X])
    with pytest.raises(MilError, match="does not know random_normal, random_uniform"):
        Program(path)
    facts = describe(read_package(path))
    assert facts["unknown"] == ["random_normal", "random_uniform"] and facts["refused"]


FORMS = {
    "local_response_norm.*even size": lambda x: mb.local_response_norm(x=x, size=4),
    "l2_pool.*ceil_mode": lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 2], pad_type="valid", ceil_mode=True),
    "gather.*out of range": lambda x: mb.gather(x=x, indices=mb.add(x=mb.shape(x=x), y=90), axis=1),
    "topk.*sort=False": lambda x: mb.topk(x=x, k=2, sort=False),
    "upsample_bilinear.*half_pixel": lambda x: mb.upsample_bilinear(
        x=x,
        scale_factor_height=2,
        scale_factor_width=2,
        align_corners=True,
        half_pixel_centers=True,
    ),
    "cast.*beyond uint16": lambda x: mb.cast(x=mb.add(x=x, y=1e6), dtype="uint16"),
    "one_hot.*out of range": lambda x: mb.one_hot(indices=mb.shape(x=x), one_hot_vector_size=3),
    "scatter.*out of range": lambda x: mb.scatter(
        data=x,
        indices=mb.sub(x=mb.shape(x=x), y=9),
        updates=mb.tile(x=x, reps=[4, 1, 1, 1]),
        axis=0,
        mode="add",
    ),
}


@pytest.mark.parametrize("why", FORMS)
def test_an_unknown_form_of_an_operation_is_an_error(why: str, tmp_path: Path) -> None:
    path = save(tmp_path, FORMS[why], [X], "iOS17")
    with pytest.raises(MilError, match=why):
        run(path, [X])


def test_a_negative_index_is_out_of_range_from_ios17_on(tmp_path: Path) -> None:
    def build(x):
        return mb.gather(x=x, indices=mb.sub(x=mb.shape(x=x), y=7), axis=2)  # -6, -3, -1, -1

    np.testing.assert_array_equal(run(save(tmp_path, build, [X], "iOS16"), [X]), X[:, :, [0, 3, 5, 5]])
    with pytest.raises(MilError, match="gather.*out of range"):
        run(save(tmp_path, build, [X], "iOS17"), [X])


def test_wrong_inputs_are_refused(package: Path) -> None:
    program = Program(package)
    with pytest.raises(MilError, match="takes"):
        program.run({"y": X})
    with pytest.raises(MilError, match="must be"):
        program.run({"a": X[:, :2]})


def test_fractions_for_an_integer_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, lambda x: mb.add(x=x, y=1), [np.int32([1, 2])])
    with pytest.raises(MilError, match="must be int32"):
        run(path, [np.float32([1.5, 2])])
    assert run(path, [np.int64([1, 2])]).tolist() == [2, 3]
