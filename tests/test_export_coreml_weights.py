"""Quantized weights and activations in Core ML packages: palettes, int8, what stays in float."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.calibrate import Seen
from export.checks.measure import psnr_db
from export.coreml import convert, palettize, w8a8
from export.coreml import export as coreml_export
from export.coreml.export import attention, write_package
from export.coreml.graphs import parts
from export.coreml.options import Options
from export.coreml.package import chunk, packages_in, read_spec
from export.coreml.palettize import kmeans, middles
from export.coreml.run import evaluated
from export.mil.program import Program
from export.source import open_source
from export.text import Text
from runtime.coreml import APPLE_SCALING
from tests.support.coreml_small import small_coreml
from tests.support.tiny import SMALL, small_checkpoint


@pytest.fixture(scope="module")
def source():
    return open_source(str(small_checkpoint()))


@pytest.fixture(scope="module")
def plain() -> Path:
    """The fp16 U-Net, for iOS17."""
    return packages_in(small_coreml()[0], "small")["unet"]


def operations(package: Path) -> Counter[str]:
    return Counter(op.type for op in Program(package).block.operations)


def epsilon_db(source, packages: dict[str, Path]) -> float:
    """PSNR of the packages' epsilon to PyTorch's, at the noisiest timestep."""
    noise, states = source.noise([3]), torch.randn(1, 77, SMALL.hidden)
    (step,) = source.steps(1)
    timestep, alpha, sigma = step.timestep, step.alpha, step.sigma
    with torch.no_grad():
        v = source.pipe.unet(torch.from_numpy(noise), timestep, states).sample.numpy()
    found = evaluated(packages, 1.0).unet(noise, float(timestep), Text((states.numpy(),)))
    return psnr_db(v, (found - sigma * noise) / alpha)


def test_split_einsum_six_bits_in_two_chunks(source, tmp_path: Path) -> None:
    options = Options(quantize_nbits=6, attention_implementation="SPLIT_EINSUM", min_deployment_target="iOS18")
    package = tmp_path / "unet.mlpackage"
    with attention(source, options.attention_implementation):
        write_package(next(part for part in parts(source) if part.name == "unet"), package, source, options)
    found = operations(package)
    assert found["einsum"] and found["constexpr_lut_to_dense"] and found["conv"]
    assert not found["linear"] and not found["matmul"]  # the time embedding's included
    assert read_spec(package).mlProgram.functions["main"].opset == "CoreML8"  # iOS18
    weights = sum(p.numel() for p in source.pipe.unet.parameters())
    blob = package / "Data/com.apple.CoreML/weights/weight.bin"
    assert blob.stat().st_size < weights * 1.4  # bytes; fp16 would be 2, 6 bits are 0.75 and tables
    chunks = dict(zip(("unet_chunk1", "unet_chunk2"), chunk(package), strict=True))
    halves = [operations(half) for half in chunks.values()]
    assert all(half["constexpr_lut_to_dense"] for half in halves)
    assert sum(half["conv"] for half in halves) == found["conv"]
    assert epsilon_db(source, chunks) > 30


def test_int8_weights_and_activations(source, plain, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(coreml_export, "convert", lambda _, __, package: shutil.copytree(plain, package))
    options = Options(quantize_activations=True, min_deployment_target="iOS17")
    package = tmp_path / "unet.mlpackage"
    write_package(next(part for part in parts(source) if part.name == "unet"), package, source, options)
    assert list(tmp_path.iterdir()) == [package]  # the fp16 U-Net, used for measuring, is gone
    program = Program(package)
    makers = {output.name: op for op in program.block.operations for output in op.outputs}
    layers = [op for op in program.block.operations if op.type in ("conv", "linear")]
    coded = [op for op in layers if maker(op, "weight", makers).type == "constexpr_affine_dequantize"]
    assert coded and [op for op in layers if op not in coded and large(maker(op, "weight", makers))] == []
    assert {maker(op, "x", makers).type for op in coded} == {"dequantize"}
    quantized = Counter(
        name for op in program.block.operations if op.type == "quantize" for name in inputs(op, "input")
    )
    assert all(quantized[op.outputs[0].name] == 1 for op in coded)
    assert epsilon_db(source, {"unet": package}) > 25


def large(weight) -> bool:
    """Whether a weight should have been made smaller."""
    (output,) = weight.outputs
    size = np.prod([dim.constant.size for dim in output.type.tensorType.dimensions])
    return size >= palettize.LEAST and "time_embedding" not in output.name


def inputs(op, key: str) -> list[str]:
    """Names that an operation's argument refers to."""
    return [argument.name for argument in op.inputs[key].arguments]


def maker(op, key: str, makers: dict):
    """The operation that makes an argument."""
    return makers[inputs(op, key)[0]]


def test_calibration_sees_the_pipelines_own_inputs(source) -> None:
    """One step begins at t = 999 with pure noise; every other prompt goes on to the later timesteps."""
    feeds = list(w8a8.unet_feeds(source))
    times = Counter(float(feed["timestep"][0]) for feed in feeds)
    assert times[999.0] == w8a8.PROMPTS and times[249.0] == w8a8.PROMPTS // 2
    first = next(feed for feed in feeds if feed["timestep"][0] == 999)
    assert first["sample"].dtype == np.float16 and first["encoder_hidden_states"].shape == (1, SMALL.hidden, 1, 77)
    assert 0.8 < first["sample"].std() < 1.2


def test_the_limit_cuts_off_one_wild_value() -> None:
    seen = Seen()
    seen.add(torch.randn(8001, generator=torch.Generator().manual_seed(0)).abs())
    seen.add(torch.full((1,), 12.0))
    assert 3 < w8a8.limit(seen) < 12


@pytest.mark.parametrize(("target", "nbits", "least"), [("iOS16", 4, 20), ("iOS18", 4, 24), ("iOS16", 8, 40)])
def test_palettes_of_the_decoder(target: str, nbits: int, least: float, source, tmp_path: Path) -> None:
    part = next(part for part in parts(source) if part.name == "vae_decoder")

    def change(program) -> None:
        palettize.palettize(program, nbits, target)

    convert.convert(part, target, tmp_path / "d.mlpackage", change)
    program = Program(tmp_path / "d.mlpackage")
    z = (torch.randn(1, SMALL.latent_channels, 8, 8) / APPLE_SCALING).half()
    with torch.no_grad():
        expected = part.module(z.float()).numpy()
    assert psnr_db(expected, program.run({"z": z.numpy()})["image"]) >= least


def test_kmeans_gives_the_distinct_values_back() -> None:
    weight = np.array([[0.5, -1, 0.5], [2, -1, 3]], np.float16)
    table, index = kmeans(weight, 16)
    assert table.dtype == np.float16 and len(table) == 16 and index.dtype == np.uint8
    np.testing.assert_array_equal(table[index].reshape(weight.shape), weight)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=200), st.sampled_from([2, 16, 64]))
def test_every_weight_gets_its_nearest_value(weights: list[float], count: int) -> None:
    flat = np.array(weights, np.float16)
    table, index = kmeans(flat, count)
    used = table[: max(1, int(index.max()) + 1)].astype(np.float64)
    best = np.abs(flat.astype(np.float64)[:, None] - used).min(1)
    slack = 2.0**-9 * np.abs(used).max() + 1e-6  # the table is rounded to fp16 at the end
    assert (np.abs(table[index].astype(np.float64) - flat) <= best + slack).all()


def test_kmeans_is_better_than_even_steps_and_settled() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float16)
    flat = weight.reshape(-1).astype(np.float64)
    table, index = kmeans(weight, 16)
    even = np.linspace(flat.min(), flat.max(), 16)
    error = np.mean((table[index] - flat) ** 2)
    assert error < 0.5 * np.mean((even[np.searchsorted(middles(even), flat)] - flat) ** 2)
    assert error < 1.1 * 0.00955 * flat.var()  # Max 1960: 16 levels for a normal variable
    closest = np.abs(flat[:, None] - table.astype(np.float64)).min(1)
    assert (np.abs(table[index] - flat) <= closest + 1e-3).all()
