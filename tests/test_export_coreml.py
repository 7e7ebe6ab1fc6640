"""The Core ML exporter: what Apple's loaders see, epsilon, chunks, Resources/, the gate, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checks.measure import Measure, Parity, psnr_db
from export.coreml import __main__ as exporter
from export.coreml import export as coreml_export
from export.coreml.convert import convert
from export.coreml.graphs import Part
from export.coreml.options import Options
from export.coreml.package import MODEL, add_metadata, packages_in, read_spec
from export.coreml.run import evaluated, noting, on_macos, unet_feed, whole_unet
from export.facts import size_mb
from export.mil.program import Program
from export.parity.exports import open_export
from export.source import open_source
from export.text import Text
from runtime.coreml import APPLE_SCALING
from runtime.errors import UserError
from tests.support.coreml_small import small_coreml
from tests.support.tiny import SMALL, Shape, make_pipeline, small_checkpoint

PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
SWIFT = ("TextEncoder", "Unet", "UnetChunk1", "UnetChunk2", "VAEDecoder", "VAEEncoder")
FLOAT16, FLOAT32 = 65552, 65568  # FeatureTypes.proto


@pytest.fixture(scope="module")
def source():
    return open_source(str(small_checkpoint()))


@pytest.fixture(scope="module")
def made():
    return small_coreml()


def ports(items) -> dict[str, tuple[list[int], int]]:
    return {p.name: (list(p.type.multiArrayType.shape), p.type.multiArrayType.dataType) for p in items}


def expected_ports() -> dict[str, tuple[dict, dict]]:
    """Inputs and outputs of each part as in torch2coreml.py, for batch 1."""
    channels, hidden = SMALL.latent_channels, SMALL.hidden
    return {
        "text_encoder": (
            {"input_ids": ([1, 77], FLOAT32)},
            {"last_hidden_state": ([1, 77, hidden], FLOAT32), "pooled_outputs": ([1, hidden], FLOAT32)},
        ),
        "unet": (
            {
                "sample": ([1, channels, 8, 8], FLOAT16),
                "timestep": ([1], FLOAT16),
                "encoder_hidden_states": ([1, hidden, 1, 77], FLOAT16),
            },
            {"noise_pred": ([1, channels, 8, 8], FLOAT32)},
        ),
        "vae_decoder": ({"z": ([1, channels, 8, 8], FLOAT16)}, {"image": ([1, 3, 64, 64], FLOAT32)}),
        "vae_encoder": ({"x": ([1, 3, 64, 64], FLOAT16)}, {"latent": ([1, 2 * channels, 8, 8], FLOAT32)}),
    }


def test_a_successful_export_says_nothing_on_stderr(made) -> None:
    assert made[2] == ""


def test_names_types_and_shapes_are_those_of_apples_loaders(made) -> None:
    packages = packages_in(made[0], "small")
    assert packages["unet"].name == "Stable_Diffusion_version_small_unet.mlpackage"
    for part, (inputs, outputs) in expected_ports().items():
        description = read_spec(packages[part]).description
        assert (ports(description.input), ports(description.output)) == (inputs, outputs)


def test_every_package_says_what_it_is_and_how_close(made) -> None:
    for part, package in packages_in(made[0], "small").items():
        facts = dict(read_spec(package).description.metadata.userDefined)
        assert facts["addkit.name"] == "small" and len(facts["addkit.checkpoint_sha256"]) == 64
        recipe = {"weights": "fp16"} | ({"attention": "ORIGINAL"} if part.startswith("unet") else {})
        assert json.loads(facts["addkit.recipe"]) == recipe
        assert json.loads(facts["addkit.parity"])["picture"]["status"] == "passed"
        assert not any("conversion_date" in key for key in facts)
        assert ("com.github.apple.ml-stable-diffusion.version" in facts) == part.startswith("unet")


def test_the_report_and_the_folder(made) -> None:
    out, printed, _ = made
    facts = json.loads((out / "export.json").read_text())
    assert facts["format"] == "coreml" and facts["precision"] == "fp16"
    assert facts["picture"]["status"] == "passed" and facts["picture"]["psnr_db"] >= 35
    assert {name: m["status"] for name, m in facts["modules"].items()} == dict.fromkeys(PARTS, "passed")
    for name in facts["files"]:
        assert (out / name).is_file()
    assert not list(out.rglob("*debug_handle*"))
    if not on_macos():
        assert facts["real_prediction"]["status"] == facts["compile"]["status"] == "not run"
        assert "on device         not run  needs macOS" in printed and "sh Resources/compile.sh" in printed


def test_the_unet_gives_epsilon(made, source) -> None:
    noise, states = source.noise([3]), torch.randn(1, 77, SMALL.hidden).numpy()
    (step,) = source.steps(1)
    timestep, alpha, sigma = step.timestep, step.alpha, step.sigma
    with torch.no_grad():
        v = source.pipe.unet(torch.from_numpy(noise), timestep, torch.from_numpy(states)).sample.numpy()
    runner = Program(packages_in(made[0], "small")["unet"]).run
    found = whole_unet({"unet": runner}, unet_feed(noise, timestep, Text((states,))))
    assert psnr_db(sigma * noise + alpha * v, found) > 60


def test_a_loader_that_knows_only_epsilon_draws_the_picture(made, source) -> None:
    """The steps of Apple's Python pipeline with diffusers' own scheduler."""
    from diffusers import DDIMScheduler

    packages = packages_in(made[0], "small")
    network = evaluated(packages, source.scaling_factor)
    scheduler = DDIMScheduler.from_config(source.pipe.scheduler.config, prediction_type="epsilon")
    scheduler.set_timesteps(1)
    (timestep,) = scheduler.timesteps.tolist()
    assert timestep == 999
    noise = source.noise([7])
    states = network.text_encoder(source.encode(["a red fox"]))
    eps = torch.from_numpy(network.unet(noise, timestep, states))
    latents = scheduler.step(eps, timestep, torch.from_numpy(noise)).prev_sample.numpy()
    z = (latents / APPLE_SCALING).astype(np.float16)
    image = Program(packages["vae_decoder"]).run({"z": z})["image"]
    expected = source.pipe(
        "a red fox",
        num_inference_steps=1,
        guidance_scale=0.0,
        output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert psnr_db(expected, np.clip(image[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1), peak=1.0) >= 35


def test_swifts_encoder_gives_the_models_latents(made, source) -> None:
    """The arithmetic of Encoder.swift: a sample of mean and log-variance, times 0.18215."""
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    found = Program(packages_in(made[0], "small")["vae_encoder"]).run({"x": picture.numpy().astype(np.float16)})
    mean, logvar = np.split(found["latent"], 2, axis=1)
    std = np.exp(0.5 * np.clip(logvar, -30, 20))
    sampled = (mean + std * np.random.default_rng(0).standard_normal(mean.shape)) * APPLE_SCALING
    with torch.no_grad():
        expected = source.pipe.vae.encode(picture).latents.numpy() * source.scaling_factor
    assert psnr_db(expected, sampled) > 45


def test_the_chunks_give_what_the_whole_gives(made, source) -> None:
    packages = packages_in(made[0], "small")
    sizes = [size_mb(packages[part]) for part in ("unet_chunk1", "unet_chunk2")]
    assert max(sizes) < 0.8 * sum(sizes)
    noise, states = source.noise([4]), torch.randn(1, 77, SMALL.hidden).numpy()
    whole = evaluated({"unet": packages["unet"]}, 1.0).unet(noise, 999.0, Text((states,)))
    del packages["unet"]  # the network must use the chunks
    chunked = evaluated(packages, 1.0).unet(noise, 999.0, Text((states,)))
    assert psnr_db(whole, chunked) > 55


def test_sinusoids_and_epsilon_are_computed_in_float(made) -> None:
    program = Program(packages_in(made[0], "small")["unet"])
    kinds = {op.outputs[0].name: (op.type, op.outputs[0].type.tensorType.dataType) for op in program.block.operations}
    by_type: dict[str, set[int]] = {}
    for kind, dtype in kinds.values():
        by_type.setdefault(kind, set()).add(dtype)
    assert by_type["sin"] == by_type["cos"] == {11}  # FLOAT32
    assert by_type["conv"] == by_type["linear"] == by_type["matmul"] == {10}  # FLOAT16
    assert kinds["noise_pred"][1] == 11 and kinds["noise_pred"][0] == "add"


def test_resources_are_complete_and_compile_on_a_mac_only(made, tmp_path) -> None:
    resources = shutil.copytree(made[0] / "Resources", tmp_path / "Resources")
    packages = {f"{name}.mlpackage" for name in SWIFT}
    assert {path.name for path in resources.iterdir()} == packages | {
        "merges.txt",
        "vocab.json",
        "compile.sh",
        "README.md",
    }
    if on_macos():
        return
    refused = subprocess.run([resources / "compile.sh"], check=False, capture_output=True, text=True)
    assert refused.returncode == 2 and "needs a Mac" in refused.stderr
    tools = tmp_path / "bin"  # a Mac's tools; the second makes an empty model
    tools.mkdir()
    stand_in(tools / "uname", "echo Darwin")
    stand_in(tools / "xcrun", 'test "$1 $2" = "coremlcompiler compile" && mkdir "${3%.mlpackage}.mlmodelc"')
    path = f"{tools}:{os.environ['PATH']}"
    subprocess.run([resources / "compile.sh"], env=os.environ | {"PATH": path}, check=True)
    assert {path.name for path in resources.glob("*.mlmodelc")} == {f"{name}.mlmodelc" for name in SWIFT}
    assert not list(resources.glob("*.mlpackage"))


def stand_in(path: Path, script: str) -> None:
    """An executable script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_resources_tell_how_many_latent_channels_swift_knows(source, made, tmp_path) -> None:
    from dataclasses import replace

    from export.coreml.swift_resources import write_resources

    assert "Image to image" not in (made[0] / "Resources" / "README.md").read_text()
    wide = replace(source, pipe=make_pipeline(tmp_path, Shape(latent_channels=16, sample_size=8)))
    write_resources(tmp_path, wide, {})
    assert "4 latent channels, this model has 16" in (tmp_path / "Resources" / "README.md").read_text()


def test_a_dry_run_writes_nothing(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert (
        exporter.main([str(small_checkpoint()), "--out", str(out), "--quantize-nbits", "4", "--dry-run", "--json"]) == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert (plan["format"], plan["precision"]) == ("coreml", "palettized-4bit") and not out.exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--quantize-activations", "--quantize-nbits", "8"], "leave out --quantize-nbits"),
        (["--quantize-activations"], "needs --min-deployment-target iOS17 or iOS18"),
    ],
)
def test_options_that_exclude_each_other_are_one_line(extra, message, tmp_path, capsys) -> None:
    code = exporter.main([str(small_checkpoint()), "--out", str(tmp_path / "out"), *extra])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and message in line


def test_below_the_threshold_nothing_is_written(made, tmp_path, monkeypatch, capsys) -> None:
    """The packages are read back from the disk: a weight file that was damaged there does not pass."""

    def write(folder: Path, source, options, stages) -> dict[str, Path]:
        for part in PARTS:
            package = packages_in(made[0], "small")[part]
            shutil.copytree(package, folder / package.name)
        damaged = packages_in(folder, "small")["vae_decoder"] / MODEL.parent / "weights" / "weight.bin"
        data = bytearray(damaged.read_bytes())
        size = int.from_bytes(data[72:80], "little")  # of the first weight: its header is at 64, it at 128
        data[128 : 128 + size] = bytes(size)
        damaged.write_bytes(data)
        return packages_in(folder, "small")

    monkeypatch.setattr(coreml_export, "write_packages", write)
    code = exporter.main([str(small_checkpoint()), "--out", str(tmp_path / "out")])
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing was written" in line and "vae_decoder" in line
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_coremltools_lacks_is_one_line(source, tmp_path, monkeypatch, capfd) -> None:
    class Strange(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    part = Part("unet", Strange(), (("x", torch.zeros(1, 3), np.float16),), ("y",))
    with pytest.raises(UserError, match="cannot convert the unet: .*bessel"):
        convert(part, "iOS16", tmp_path / "x.mlpackage")
    assert capfd.readouterr().err == ""


class Normed(torch.nn.Module):
    """A convolution and a group norm, which squares what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.loud = torch.nn.Conv2d(4, 4, 1)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.quiet = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.quiet(self.norm(self.loud(x)))


def test_an_overflow_names_the_layer(tmp_path: Path) -> None:
    """1,000 is no large number in fp16, its square is beyond it."""
    part = Part("unet", Normed(), (("x", torch.zeros(1, 4, 8, 8), np.float16),), ("y",))
    convert(part, "iOS16", tmp_path / "x.mlpackage")
    overflows: dict[str, str] = {}
    run = noting(Program(tmp_path / "x.mlpackage"), "unet", overflows)
    run({"x": np.ones((1, 4, 8, 8), np.float16)})
    assert overflows == {}
    run({"x": np.random.default_rng(0).normal(0, 5000, (1, 4, 8, 8)).astype(np.float16)})
    assert list(overflows) == ["unet"] and overflows["unet"].startswith("square")
    failed = Parity(Measure(None, 3.0, "failed", "below 35 dB"))
    with pytest.raises(UserError, match="leaves fp16's range in the unet .square.*quiet_weight.*; nothing was written"):
        coreml_export.refuse_overflow(failed, "Core ML fp16 of x", overflows)
    coreml_export.refuse_overflow(Parity(Measure(None, 40.0)), "Core ML fp16 of x", overflows)


def test_an_existing_folder_stays(made, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    code = exporter.main([str(small_checkpoint()), "--out", str(out)])
    assert code == 2 and "--overwrite" in capsys.readouterr().err
    assert (out / "export.json").is_file()


def test_the_parity_report_finds_every_package(made, source) -> None:
    export = open_export(made[0], source)
    assert (export.format, export.precision) == ("coreml", "fp16")
    assert set(export.parts) == {*PARTS, "unet_chunk1", "unet_chunk2"} and export.doubts(source) == []


def test_metadata_leaves_the_weights_alone(made, tmp_path) -> None:
    package = shutil.copytree(packages_in(made[0], "small")["vae_encoder"], tmp_path / "e.mlpackage")
    before = Program(package)
    add_metadata(package, {"note": "x"})
    assert dict(read_spec(package).description.metadata.userDefined)["addkit.note"] == "x"
    feed = {"x": np.full((1, 3, 64, 64), 0.5, np.float16)}
    np.testing.assert_array_equal(before.run(feed)["latent"], Program(package).run(feed)["latent"])


def test_a_part_has_its_own_recipe() -> None:
    options = Options(quantize_activations=True, min_deployment_target="iOS17")
    assert options.precision == "w8a8" and options.recipe("unet")["activations"].startswith("int8")
    assert options.recipe("vae_decoder")["weights"] == "k-means, 8 bits"
    four = Options(quantize_nbits=4)
    assert four.nbits("unet") == 4 and four.nbits("vae_encoder") == 8
