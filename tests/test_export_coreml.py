"""The Core ML exporter: what Apple's loaders see, epsilon, attention forms, palettes, the gate."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import coreml as exporter
from export import coreml_convert, parity
from export.coreml_convert import kmeans, nearest
from export.coreml_graphs import APPLE_SCALING, AppleTextEncoder, AppleUNet, parts
from export.coreml_run import evaluated, on_macos, whole_unet
from export.folder import size_mb
from export.graphs import PlainAttention, attention_as
from export.measure import psnr_db
from export.mil import Program
from export.source import open_source
from export.split_einsum import split_einsum
from tests.tiny import SMALL, Shape, make_pipeline, small_checkpoint
from train.errors import UserError, run_command

PARTS = ("text_encoder", "unet", "vae_decoder")
FLOAT16, FLOAT32 = 65552, 65568  # FeatureTypes.proto


@pytest.fixture(scope="module")
def source():
    return open_source(str(small_checkpoint()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with everything that the command can write, and what it printed."""
    out = tmp_path_factory.mktemp("coreml") / "out"
    argv = [
        str(small_checkpoint()), "--out", str(out), "--chunk-unet", "--bundle-resources-for-swift-cli",
        "--check-output-correctness",
    ]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, sep=" ", **_: printed.append(sep.join(map(str, words))))
        exporter.main(argv)
    return out, "\n".join(printed)


def packages(out: Path) -> dict[str, Path]:
    names = (*PARTS, "unet_chunk1", "unet_chunk2")
    return {part: out / exporter.package_name("small", part) for part in names}


def spec_of(path: Path):
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((path / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return spec


def ports(items) -> dict[str, tuple[list[int], int]]:
    return {p.name: (list(p.type.multiArrayType.shape), p.type.multiArrayType.dataType) for p in items}


def test_names_types_and_shapes_are_those_of_apples_loaders(made) -> None:
    out, _ = made
    assert packages(out)["unet"].name == "Stable_Diffusion_version_small_unet.mlpackage"
    channels, hidden = SMALL.latent_channels, SMALL.hidden
    expected = {
        "text_encoder": (
            {"input_ids": ([1, 77], FLOAT32)},
            {"last_hidden_state": ([1, 77, hidden], FLOAT32), "pooled_outputs": ([1, hidden], FLOAT32)},
        ),
        "unet": (
            {
                "sample": ([1, channels, 8, 8], FLOAT16), "timestep": ([1], FLOAT16),
                "encoder_hidden_states": ([1, hidden, 1, 77], FLOAT16),
            },
            {"noise_pred": ([1, channels, 8, 8], FLOAT32)},
        ),
        "vae_decoder": ({"z": ([1, channels, 8, 8], FLOAT16)}, {"image": ([1, 3, 64, 64], FLOAT32)}),
    }
    for part, (inputs, outputs) in expected.items():
        description = spec_of(packages(out)[part]).description
        assert (ports(description.input), ports(description.output)) == (inputs, outputs)
        facts = dict(description.metadata.userDefined)
        assert facts["addkit.name"] == "small"
        assert not any("conversion_date" in key for key in facts)
        assert ("com.github.apple.ml-stable-diffusion.version" in facts) == (part == "unet")


def test_the_report_and_the_folder(made) -> None:
    out, printed = made
    facts = json.loads((out / "export.json").read_text())
    assert facts["format"] == "coreml" and facts["precision"] == "fp16"
    assert facts["picture"]["status"] == "passed" and facts["picture"]["psnr_db"] >= 35
    assert facts["real_prediction"]["status"] in ("not run", "passed")
    for name in facts["files"]:
        assert (out / name).is_file()
    resources = sorted(path.name for path in (out / "Resources").iterdir())
    assert resources == sorted(
        ["merges.txt", "vocab.json"]
        + [f"{name}.mlpackage" for name in ("TextEncoder", "Unet", "UnetChunk1", "UnetChunk2", "VAEDecoder")]
    )
    assert "xcrun coremlcompiler compile Unet.mlpackage ." in printed
    assert not list(out.rglob("*debug_handle*"))
    if facts["real_prediction"]["status"] == "not run":
        assert "on device" in printed and "not run: needs macOS" in printed


def test_the_unet_gives_epsilon(made, source) -> None:
    out, _ = made
    noise, states = source.noise([3]), torch.randn(1, 77, SMALL.hidden).numpy()
    (timestep, alpha, sigma), *_ = source.steps(1)
    with torch.no_grad():
        v = source.pipe.unet(torch.from_numpy(noise), timestep, torch.from_numpy(states)).sample.numpy()
    runner = Program(packages(out)["unet"]).run
    found = whole_unet({"unet": runner}, noise, timestep, states)
    assert psnr_db(sigma * noise + alpha * v, found) > 60


def test_a_loader_that_knows_only_epsilon_draws_the_picture(made, source) -> None:
    """The steps of Apple's Python pipeline with diffusers' own scheduler."""
    from diffusers import DDIMScheduler

    out, _ = made
    network = evaluated({part: packages(out)[part] for part in PARTS}, source.scaling_factor)
    scheduler = DDIMScheduler.from_config(source.pipe.scheduler.config, prediction_type="epsilon")
    scheduler.set_timesteps(1)
    (timestep,) = scheduler.timesteps.tolist()
    assert timestep == 999
    noise = source.noise([7])
    states = network.text_encoder(source.encode(["a red fox"]))
    eps = torch.from_numpy(network.unet(noise, timestep, states))
    latents = scheduler.step(eps, timestep, torch.from_numpy(noise)).prev_sample.numpy()
    z = (latents / APPLE_SCALING).astype(np.float16)
    image = Program(packages(out)["vae_decoder"]).run({"z": z})["image"]
    expected = source.pipe(
        "a red fox", num_inference_steps=1, guidance_scale=0.0, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert psnr_db(expected, np.clip(image[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1), peak=1.0) >= 35


def test_the_chunks_give_what_the_whole_gives(made, source) -> None:
    out, _ = made
    runs = {part: Program(packages(out)[part]) for part in ("unet", "unet_chunk1", "unet_chunk2")}
    sizes = [size_mb(packages(out)[part]) for part in ("unet_chunk1", "unet_chunk2")]
    assert max(sizes) < 0.8 * sum(sizes)
    noise, states = source.noise([4]), torch.randn(1, 77, SMALL.hidden).numpy()
    whole = evaluated({"unet": packages(out)["unet"]}, 1.0).unet(noise, 999.0, states)
    chunked = evaluated({part: packages(out)[part] for part in runs}, 1.0).unet(noise, 999.0, states)
    assert psnr_db(whole, chunked) > 55


def test_sinusoids_and_epsilon_are_computed_in_float(made) -> None:
    out, _ = made
    program = Program(packages(out)["unet"])
    kinds = {op.outputs[0].name: (op.type, op.outputs[0].type.tensorType.dataType) for op in program.block.operations}
    by_type: dict[str, set[int]] = {}
    for kind, dtype in kinds.values():
        by_type.setdefault(kind, set()).add(dtype)
    assert by_type["sin"] == by_type["cos"] == {11}  # FLOAT32
    assert by_type["conv"] == by_type["linear"] == by_type["matmul"] == {10}  # FLOAT16
    assert kinds["noise_pred"][1] == 11 and kinds["noise_pred"][0] == "add"


def test_token_ids_reach_the_table_exactly(source) -> None:
    """fp16 holds whole numbers only up to 2048: the ids must not pass through it."""
    module = AppleTextEncoder(source.pipe.text_encoder)
    ids = torch.full((1, 77), float(len(source.pipe.tokenizer) - 1))
    with torch.no_grad():
        hidden, pooled = module(ids)
        expected = source.pipe.text_encoder(ids.long())
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_attention_forms_compute_the_same(linear: bool, tmp_path: Path) -> None:
    shape = replace(SMALL, attention_levels=2, heads=(2, 4))
    unet = make_pipeline(tmp_path, shape).unet
    if linear:
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_config({**unet.config, "use_linear_projection": True}).eval()
    args = (torch.randn(2, 4, 8, 8), torch.tensor(999.0), torch.randn(2, 77, SMALL.hidden))
    before = copy.copy(dict(unet.named_modules()))
    with torch.no_grad():
        expected = unet(*args).sample
        with attention_as(unet, PlainAttention()):
            torch.testing.assert_close(unet(*args).sample, expected, rtol=1e-4, atol=1e-5)
        with split_einsum(unet):
            torch.testing.assert_close(unet(*args).sample, expected, rtol=1e-4, atol=1e-5)
    assert dict(unet.named_modules()) == before


def test_split_einsum_refuses_what_it_cannot_write(source) -> None:
    block = source.pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    before, block.norm_type = block.norm_type, "ada_norm"
    try:
        refusal = pytest.raises(UserError, match="use --attention-implementation ORIGINAL")
        with refusal, split_einsum(source.pipe.unet):
            pass
    finally:
        block.norm_type = before


def test_split_einsum_and_six_bits(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    exporter.main(
        [str(small_checkpoint()), "--out", str(out), "--attention-implementation", "SPLIT_EINSUM",
         "--quantize-nbits", "6", "--min-deployment-target", "iOS17", "--json"]
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["precision"] == "palettized-6bit" and facts["picture"]["psnr_db"] >= 20
    kinds = {op.type for op in Program(packages(out)["unet"]).block.operations}
    assert {"einsum", "constexpr_lut_to_dense"} <= kinds
    function = spec_of(packages(out)["unet"]).mlProgram.functions["main"]
    assert function.opset == "CoreML7"  # iOS17
    weights = sum(p.numel() for p in open_source(str(small_checkpoint())).pipe.unet.parameters())
    blob = packages(out)["unet"] / "Data/com.apple.CoreML/weights/weight.bin"
    assert blob.stat().st_size < weights * 1.25  # bytes; fp16 would be 2, 6 bits are 0.75 and tables


@pytest.mark.parametrize(("target", "nbits", "least"), [("iOS16", 4, 20), ("iOS18", 4, 24), ("iOS16", 8, 40)])
def test_palettes_of_the_decoder(target: str, nbits: int, least: float, source, tmp_path: Path) -> None:
    part = next(part for part in parts(source) if part.name == "vae_decoder")
    model = coreml_convert.palettize(coreml_convert.convert(part, target), nbits, target)
    coreml_convert.save(model, tmp_path / "d.mlpackage")
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


def test_kmeans_is_better_than_even_steps_and_settled() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float16)
    flat = weight.reshape(-1).astype(np.float64)
    table, index = kmeans(weight, 16)
    even = np.linspace(flat.min(), flat.max(), 16)
    error = np.mean((table[index] - flat) ** 2)
    assert error < 0.5 * np.mean((even[nearest(flat, even)] - flat) ** 2)
    assert error < 1.1 * 0.00955 * flat.var()  # Max 1960: 16 levels of a normal variable
    closest = np.abs(flat[:, None] - table.astype(np.float64)).min(1)
    assert (np.abs(table[index] - flat) <= closest + 1e-3).all()  # the table is rounded to fp16 at the end


def test_below_the_threshold_nothing_is_written(made, tmp_path, monkeypatch, capsys) -> None:
    """The packages are read back from the disk: a weight file that was damaged there does not pass."""

    def write(folder: Path, source, args) -> dict[str, Path]:
        for part in PARTS:
            shutil.copytree(packages(made[0])[part], packages(folder)[part])
        weights = packages(folder)["vae_decoder"] / "Data/com.apple.CoreML/weights/weight.bin"
        data = bytearray(weights.read_bytes())
        size = int.from_bytes(data[72:80], "little")  # of the first weight: its header is at 64, it at 128
        data[128 : 128 + size] = bytes(size)
        weights.write_bytes(data)
        return {part: packages(folder)[part] for part in PARTS}

    monkeypatch.setattr(exporter, "write_packages", write)
    with pytest.raises(SystemExit) as stop:
        run_command(exporter.main, [str(small_checkpoint()), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing was written" in line and "vae_decoder" in line
    assert list(tmp_path.iterdir()) == []


def test_the_parity_report_reads_the_folder_back(made, capsys) -> None:
    parity.main([str(small_checkpoint()), str(made[0]), "--json"])
    (facts,) = json.loads(capsys.readouterr().out)["exports"]
    assert (facts["format"], facts["precision"]) == ("coreml", "fp16")
    assert {name: m["status"] for name, m in facts["modules"].items()} == dict.fromkeys(PARTS, "passed")
    assert facts["picture"]["psnr_db"] >= 35
    if not on_macos():
        assert facts["real_prediction"] | {"why": ""} == measured("not run") and facts["latency_ms"] is None
        assert facts["real_prediction"]["why"] == "needs macOS"


def measured(status: str) -> dict[str, object]:
    """A comparison without figures."""
    return {"max_abs": None, "psnr_db": None, "status": status, "why": ""}


def test_an_altered_package_is_one_line(made, tmp_path) -> None:
    altered = shutil.copytree(made[0], tmp_path / "altered")
    weights = packages(altered)["unet"] / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="weight.bin is truncated"):
        parity.main([str(small_checkpoint()), str(altered)])


def test_an_existing_folder_stays(made, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    with pytest.raises(SystemExit) as stop:
        run_command(exporter.main, [str(small_checkpoint()), "--out", str(out)])
    assert stop.value.code == 2 and "--overwrite" in capsys.readouterr().err
    assert (out / "export.json").is_file()


def test_an_epsilon_model_stays_one(tmp_path: Path) -> None:
    pipe = make_pipeline(tmp_path, Shape(latent_channels=4, sample_size=8, prediction_type="epsilon"))
    pipe.save_pretrained(tmp_path / "model")
    unet = AppleUNet(open_source(str(tmp_path / "model")))
    sample, states = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 1, 77)
    with torch.no_grad():
        expected = pipe.unet(sample, 999, states.squeeze(2).transpose(1, 2)).sample
        torch.testing.assert_close(unet(sample, torch.tensor([999.0]), states), expected)
