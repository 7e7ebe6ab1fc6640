"""The OpenVINO exporter: what GenAI's pipelines read, their pictures compared with diffusers', the gates."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import diffusers
import numpy as np
import pytest
import torch

from export.checks.measure import psnr_db
from export.facts import checkpoint_sha256
from export.openvino import __main__ as exporter
from export.openvino import export as exporter_export
from export.openvino.convert import adds_one
from export.openvino.genai import given, text_to_image
from export.openvino.int8 import LEAST
from export.openvino.run import MODEL, load_openvino
from export.source import Source, open_source
from runtime.bundle import FileFacts, check_file
from runtime.manifest import COMPONENTS
from tests.support.tiny import SMALL, make_pipeline, small_checkpoint, small_openvino

ONE_STEP = {"num_inference_steps": 1, "guidance_scale": 0.0}
PROMPT = "a red fox,in the hat"


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(str(small_checkpoint()))


@pytest.fixture(scope="module")
def made() -> Path:
    return small_openvino()


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def command(capfd: pytest.CaptureFixture[str], *argv: object) -> tuple[int, list[str]]:
    """(exit code, lines on stderr)."""
    return exporter.main([str(part) for part in argv]), capfd.readouterr().err.splitlines()


def by_diffusers(source: Source, seed: int = 7, steps: int = 1) -> np.ndarray:
    """f32[H,W,3] in [0,1]."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {"num_inference_steps": steps, "guidance_scale": 0.0, "output_type": "np"}
    return source.pipe(PROMPT, generator=generator, **arguments).images[0]


def test_the_folder_is_that_of_genai(made: Path) -> None:
    index = read(made / "model_index.json")
    classes = {name: index[name][1] for name in ("text_encoder", "unet", "vae")}
    assert classes == {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    assert index["_class_name"] == "StableDiffusionPipeline" and index["scheduler"][1] == "DDIMScheduler"
    for name in COMPONENTS:
        files = sorted(path.name for path in (made / name).iterdir())
        assert files == ["config.json", "openvino_model.bin", "openvino_model.xml"]
    assert read(made / "scheduler" / "scheduler_config.json")["clip_sample"] is False
    assert read(made / "vae_decoder" / "config.json")["scaling_factor"] == 1.0
    assert sorted(path.name for path in (made / "tokenizer").iterdir()) == [
        "merges.txt", "openvino_tokenizer.bin", "openvino_tokenizer.xml", "special_tokens_map.json",
        "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip


def test_names_types_and_shapes(made: Path) -> None:
    core = load_openvino().Core()

    def ports(items: Any) -> dict[str, str]:
        return {port.any_name: f"{port.element_type.get_type_name()}{port.partial_shape}" for port in items}

    found = {name: core.read_model(made / name / MODEL) for name in COMPONENTS}
    assert {name: ports(model.inputs) for name, model in found.items()} == {
        "text_encoder": {"input_ids": "i64[?,77]"},
        "unet": {"sample": "f32[?,4,?,?]", "timestep": "i64[1]", "encoder_hidden_states": "f32[?,77,32]"},
        "vae_decoder": {"latent_sample": "f32[?,4,?,?]"},
        "vae_encoder": {"sample": "f32[?,3,?,?]"},
    }
    names = {name: [port.any_name for port in model.outputs] for name, model in found.items()}
    assert names == {
        "text_encoder": ["last_hidden_state", "pooler_output"], "unet": ["out_sample"],
        "vae_decoder": ["sample"], "vae_encoder": ["latent_sample"],
    }  # fmt: skip
    kinds = [node.get_type_name() for node in found["unet"].get_ops()]
    assert kinds.count("ScaledDotProductAttention") == 8


def test_the_marker_and_the_metadata(made: Path, source: Source) -> None:
    facts = read(made / "export.json")
    assert (facts["format"], facts["precision"], facts["scheduler"]) == ("openvino", "fp32", "DDIMScheduler")
    assert facts["checkpoint_sha256"] == checkpoint_sha256(source.folder)
    assert "CPU, f32" in facts["computed_by"] and facts["licences"]
    assert facts["picture"]["psnr_db"] >= 50 and facts["genai_picture"]["psnr_db"] >= 40
    for name, known in facts["files"].items():
        check_file(made, name, FileFacts(**known))
    written = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert set(facts["files"]) == written - {"export.json"}
    models = sorted(made.glob("*/*.xml"))
    assert len(models) == len(COMPONENTS) + 1
    import openvino_tokenizers  # noqa: F401  it teaches OpenVINO's reader the tokenizer's operations

    for path in models:
        model = load_openvino().Core().read_model(path)
        said = {key: model.get_rt_info(["addkit", key]).value for key in ("producer", "checkpoint_sha256", "parity")}
        assert said["producer"] == facts["producer"] and said["checkpoint_sha256"] == facts["checkpoint_sha256"]
        assert json.loads(said["parity"])["picture"] == facts["picture"]


def test_genai_draws_the_picture_of_diffusers(made: Path, source: Source) -> None:
    import openvino_genai

    expected = by_diffusers(source)
    found = text_to_image(made, PROMPT, source.noise([7])[0])
    assert psnr_db(expected, found / 255, peak=1.0) >= 50
    pipe = openvino_genai.Text2ImagePipeline(made, "CPU", INFERENCE_PRECISION_HINT="f32")
    seeded = pipe.generate(PROMPT, generator=openvino_genai.TorchGenerator(7), **ONE_STEP)
    np.testing.assert_array_equal(seeded.data[0], found)
    four = pipe.generate(PROMPT, generator=given(source.noise([7])), num_inference_steps=4, guidance_scale=0.0)
    assert psnr_db(by_diffusers(source, steps=4), four.data[0] / 255, peak=1.0) >= 50
    both = pipe.generate(PROMPT, generator=given([source.noise([7, 8])]), num_images_per_prompt=2, **ONE_STEP)
    np.testing.assert_array_equal(both.data[0], found)
    assert both.data.shape == (2, 64, 64, 3) and (both.data[0] != both.data[1]).any()
    tall = pipe.generate(PROMPT, generator=openvino_genai.TorchGenerator(7), height=128, width=64, **ONE_STEP)
    assert tall.data.shape == (1, 128, 64, 3)


def test_genai_reshapes_to_static_shapes(made: Path, source: Source) -> None:
    """Without folded offsets the CPU plugin dies here: asserted first, since it would take the tests along."""
    import openvino_genai

    unet = load_openvino().Core().read_model(made / "unet" / MODEL)
    sums = [node for node in unet.get_ops() if adds_one(node)]
    assert not any(
        target.get_node().get_type_name() == "Multiply"
        for node in sums
        for target in node.output(0).get_target_inputs()
    )
    pipe = openvino_genai.Text2ImagePipeline(made)
    pipe.reshape(1, 64, 64, 0.0)
    pipe.compile("CPU", INFERENCE_PRECISION_HINT="f32")
    found = pipe.generate(PROMPT, generator=given(source.noise([7])), **ONE_STEP)
    assert psnr_db(by_diffusers(source), found.data[0] / 255, peak=1.0) >= 50


def from_image(source: Source, folder: Path) -> float:
    """PSNR between GenAI's and diffusers' picture from a picture, at half strength in two steps."""
    import openvino_genai
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (*source.image_size, 3), np.uint8)
    arguments = {"strength": 0.5, "num_inference_steps": 2, "guidance_scale": 0.0}
    parts = {name: part for name, part in source.pipe.components.items() if name != "image_encoder"}
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    expected = theirs(PROMPT, image=Image.fromarray(picture), generator=generator, output_type="np", **arguments)
    pipe = openvino_genai.Image2ImagePipeline(folder, "CPU", INFERENCE_PRECISION_HINT="f32")
    tensor = load_openvino().Tensor(picture[None])
    found = pipe.generate(PROMPT, tensor, generator=openvino_genai.TorchGenerator(3), **arguments)
    return psnr_db(expected.images[0], found.data[0] / 255, peak=1.0)


def test_image_to_image(made: Path, source: Source) -> None:
    assert from_image(source, made) >= 50


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of SD-Turbo's kind: AutoencoderKL, epsilon, Euler with trailing timesteps."""
    folder = tmp_path_factory.mktemp("turbo")
    pipe = make_pipeline(folder, replace(SMALL, prediction_type="epsilon", channels=(16,)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, scaling_factor=0.18215,
        )  # fmt: skip
    euler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.register_modules(vae=vae.eval(), scheduler=euler)
    pipe.save_pretrained(folder / "turbo")
    return folder / "turbo"


def test_a_checkpoint_of_sd_turbos_kind_in_fp16(turbo: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out"
    assert exporter.main([str(turbo), "--out", str(out), "--precision", "fp16", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["scheduler"] == "EulerDiscreteScheduler" and facts["scaling_factor"] == 0.18215
    assert facts["picture"]["psnr_db"] >= 35 and facts["modules"]["vae_encoder"]["status"] == "passed"
    source = open_source(str(turbo))
    found = text_to_image(out, PROMPT, source.noise([7])[0])
    assert psnr_db(by_diffusers(source), found / 255, peak=1.0) >= 35
    assert from_image(source, out) >= 35
    model = load_openvino().Core().read_model(out / "vae_encoder" / MODEL)
    assert model.output(0).any_name == "latent_parameters"
    count = sum(weight.numel() for weight in source.pipe.unet.parameters())
    assert 1.9 * count < (out / "unet" / "openvino_model.bin").stat().st_size < 2.2 * count


def test_int8_weights_are_small_and_close(made: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    openvino, out = load_openvino(), tmp_path / "out"
    monkeypatch.setattr(exporter_export, "convert", lambda part: openvino.Core().read_model(made / part.name / MODEL))
    assert exporter.main([str(small_checkpoint()), "--out", str(out), "--precision", "int8", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert 30 <= facts["picture"]["psnr_db"] < 80 and facts["genai_picture"]["status"] == "passed"
    counts = facts["recipe"]["quantized_weights"]
    assert set(counts) == {"text_encoder", "unet", "vae_decoder"} and counts["unet"] > 10
    unet = openvino.Core().read_model(out / "unet" / MODEL)
    constants = [node for node in unet.get_ops() if node.get_type_name() == "Constant"]
    kinds = [node.get_element_type().get_type_name() for node in constants if np.prod(list(node.shape)) >= LEAST]
    assert kinds.count("u8") == counts["unet"] and "f16" in kinds and "f32" not in kinds  # f16: the layers left out
    before, after = ((folder / "unet" / "openvino_model.bin").stat().st_size for folder in (made, out))
    assert after < 0.5 * before


def reused(made: Path, damage: bool = False) -> Any:
    """In place of `write_models`: those of an earlier export, with or without a weight set to zero."""

    def write(folder: Path, *_: Any) -> dict[str, Any]:
        for name in COMPONENTS:
            for suffix in (".xml", ".bin"):
                shutil.copyfile((made / name / MODEL).with_suffix(suffix), (folder / name / MODEL).with_suffix(suffix))
        if damage:
            spoil(folder / "vae_decoder" / MODEL)
        return {"weights": "f32"}

    return write


def spoil(path: Path) -> None:
    """Set the largest weight of a written model to zero."""
    constants = (layer.find("data") for layer in ElementTree.parse(path).iterfind("layers/layer[@type='Const']"))
    size, offset = max((int(data.get("size", 0)), int(data.get("offset", 0))) for data in constants if data is not None)
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[offset : offset + size] = bytes(size)
    path.with_suffix(".bin").write_bytes(weights)


def test_below_the_threshold_nothing_is_written(made: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(exporter_export, "write_models", reused(made, damage=True))
    code, lines = command(capfd, small_checkpoint(), "--out", tmp_path / "out")
    assert code == 2 and "nothing was written" in lines[-1] and "vae_decoder" in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_another_picture_by_genai_is_refused(made: Path, source: Source, tmp_path: Path, monkeypatch, capfd) -> None:
    """Here by a scheduler of another noise schedule: the modules are right all the same."""
    other = type(source.pipe.scheduler).from_config(source.pipe.scheduler.config, beta_end=0.006)
    monkeypatch.setattr(exporter_export, "write_models", reused(made))
    monkeypatch.setattr("export.openvino.folder.genai_scheduler", lambda _: other)
    code, lines = command(capfd, small_checkpoint(), "--out", tmp_path / "out")
    assert code == 2 and "drawn by OpenVINO GenAI" in lines[-1] and "below 40 dB" in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch, capfd) -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter_export, "convert", interrupted)
    assert command(capfd, small_checkpoint(), "--out", tmp_path / "out")[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_does_not_convert_is_one_line(tmp_path: Path, monkeypatch, capfd) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No conversion rule\nfor aten::nothing")

    monkeypatch.setattr(load_openvino(), "convert_model", broken)
    code, lines = command(capfd, small_checkpoint(), "--out", tmp_path / "out")
    assert code == 2 and "cannot convert the vae_decoder: No conversion rule for aten::nothing" in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_bad_checkpoint_is_one_line(made: Path, tmp_path: Path, capfd) -> None:
    for folder in (tmp_path, made):
        code, lines = command(capfd, folder, "--out", tmp_path / "out")
        assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(tmp_path: Path, capfd) -> None:
    assert (
        exporter.main([str(small_checkpoint()), "--out", str(tmp_path / "out"), "--dry-run", "--precision", "int8"])
        == 0
    )
    assert "openvino int8" in capfd.readouterr().out and list(tmp_path.iterdir()) == []
