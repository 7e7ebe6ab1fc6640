"""A model in one file, or a U-Net alone, opened as diffusers' own converter opens it, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from export.facts import checkpoint_sha256
from export.locate import locate
from export.onnx.__main__ import main as export
from runtime.errors import UserError
from scripts.zoo import scheduler
from scripts.zoo_files import single_file, unet_ldm
from scripts.zoo_parts import (
    END,
    EXCLAMATION,
    TEXT,
    kl,
    projecting_encoder,
    sd_unet,
    sdxl_unet,
    text_config,
    text_encoder,
    tokenizer,
)
from tests.test_zoo import draw, psnr
from train.checkpoint import load_pipeline
from train.opening.from_file import from_file
from train.opening.models import MODELS, SD2, model_of
from train.opening.resolve import resolve_checkpoint
from train.opening.structure import structure_of, text_configs, unet_config, vae_config
from train.run.build import check_teacher
from train.teacher import start_unet
from train.weights.files import read_safetensors, stored_weights

TRAILING = {"timestep_spacing": "trailing", "prediction_type": "epsilon", "steps_offset": 1}
LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}


def small_vae(**config: Any) -> Any:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return kl(**kinds, block_out_channels=(32, 32, 32, 64), layers_per_block=1, **config)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SD-Turbo's configurations and few layers, and the same model as a file beside it."""
    home = tmp_path_factory.mktemp("turbo")
    torch.manual_seed(0)
    heads = {"attention_head_dim": (1, 2), "use_linear_projection": True}
    pipe = StableDiffusionPipeline(
        unet=sd_unet(block_out_channels=(64, 128), **LEVELS, **heads),
        text_encoder=text_encoder(text_config(activation="gelu", layers=1)),
        tokenizer=tokenizer(home / "tokenizer", EXCLAMATION),
        vae=small_vae(),
        scheduler=scheduler("EulerDiscreteScheduler", **TRAILING),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(home / "diffusers")
    single_file(pipe, home / "sd_turbo.safetensors")
    return home


def config_of(folder: Path, part: str) -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return dict(json.loads((folder / part / name).read_text()))


def differing(made: dict[str, Any], wanted: dict[str, Any]) -> set[str]:
    return {key for key, value in made.items() if json.loads(json.dumps(value)) != wanted.get(key)}


def test_a_file_draws_as_diffusers_draws_it(turbo: Path) -> None:
    file = turbo / "sd_turbo.safetensors"
    judge = StableDiffusionPipeline.from_single_file(file, config=str(turbo / "diffusers"), local_files_only=True)
    ours = load_pipeline(resolve_checkpoint(file, str(turbo / "diffusers")))
    for prompt in ("a red fox!", "fox! " * 60):
        assert (draw(ours, prompt, steps=2) == draw(judge, prompt, steps=2)).all()


def test_without_a_configuration_the_shapes_and_the_name_say_it_all(turbo: Path) -> None:
    folder = resolve_checkpoint(turbo / "sd_turbo.safetensors")
    assert folder.name == "sd_turbo" and locate(turbo / "sd_turbo.safetensors").name == "sd_turbo"
    origin = turbo / "diffusers"
    assert differing(config_of(folder, "unet"), config_of(origin, "unet")) == {"sample_size"}  # a file does not say it
    assert config_of(folder, "unet")["sample_size"] == 64
    assert not differing(config_of(folder, "scheduler"), config_of(origin, "scheduler"))
    assert not differing(config_of(folder, "text_encoder"), config_of(origin, "text_encoder"))
    assert differing(config_of(folder, "vae"), config_of(origin, "vae")) <= {"force_upcast"}
    ours, judge = load_pipeline(folder), StableDiffusionPipeline.from_pretrained(origin)
    for prompt in ("a red fox!", "", "fox! " * 60):
        asked = {"padding": "max_length", "max_length": 77, "truncation": True}
        assert ours.tokenizer(prompt, **asked).input_ids == judge.tokenizer(prompt, **asked).input_ids
    ours.unet.register_to_config(sample_size=8)
    assert psnr(draw(ours), draw(judge)) > 100


def test_trainers_open_a_file_too(turbo: Path) -> None:
    given, wanted = start_unet(str(turbo / "sd_turbo.safetensors")), start_unet(str(turbo / "diffusers"))
    assert all(torch.equal(value, wanted.state_dict()[key]) for key, value in given.state_dict().items())
    pipeline = load_pipeline(turbo / "sd_turbo.safetensors")
    check_teacher(pipeline, "sd_turbo.safetensors")
    assert pipeline.unet.dtype == torch.float32


def test_sizes_are_counted_in_the_file_and_its_content_has_a_hash(turbo: Path, capsys: Any) -> None:
    folder, origin = resolve_checkpoint(turbo / "sd_turbo.safetensors"), turbo / "diffusers"
    for part in ("unet", "vae"):
        counts = [sum(weight.count for weight in stored_weights(one / part).values()) for one in (folder, origin)]
        assert counts[0] == counts[1]
    assert checkpoint_sha256(folder) != checkpoint_sha256(origin)
    file = str(turbo / "sd_turbo.safetensors")
    assert export([file, "--out", str(turbo / "none"), "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert {part["name"] for part in planned["components"]} >= {"unet", "vae_decoder", "text_encoder"}
    assert planned["checkpoint"] == file and not (turbo / "none").exists()


@pytest.mark.parametrize(("text", "eight"), [("quick_gelu", True), ("gelu", False)])
def test_every_structure_is_read_from_shapes(text: str, eight: bool, tmp_path: Path) -> None:
    """SDXL, whose two encoders differ, and SD 1.x with its eight heads, from their tensors' names and shapes."""
    torch.manual_seed(0)
    if eight:
        parts = {"unet": sd_unet(attention_head_dim=8), "text_encoder": text_encoder(text_config(activation=text))}
        pipe: Any = StableDiffusionPipeline(
            **parts,
            vae=kl(),
            tokenizer=tokenizer(tmp_path / "t", END),
            scheduler=scheduler("PNDMScheduler"),
            safety_checker=None,
            feature_extractor=None,
        )
    else:
        pipe = StableDiffusionXLPipeline(
            unet=sdxl_unet(),
            vae=kl(sample_size=1024, scaling_factor=0.13025),
            text_encoder=text_encoder(text_config(projection_dim=TEXT)),
            text_encoder_2=projecting_encoder(text_config(2 * TEXT, 3, text)),
            tokenizer=tokenizer(tmp_path / "t", END),
            tokenizer_2=tokenizer(tmp_path / "t2", EXCLAMATION),
            scheduler=scheduler("EulerAncestralDiscreteScheduler", **TRAILING),
            add_watermarker=False,
        )
    file = single_file(pipe, tmp_path / "x_turbo.safetensors")
    shapes = {name: w.shape for name, w in read_safetensors(file)}
    structure = structure_of(shapes)
    assert structure is not None
    wanted = json.loads(json.dumps(dict(pipe.unet.config)))
    assert differing(unet_config(shapes, structure, 8), wanted) <= {"_class_name"}
    assert differing(vae_config(shapes, structure, pipe.vae.config.sample_size), dict(pipe.vae.config)) <= {
        *("_class_name", "down_block_types", "up_block_types", "block_out_channels", "force_upcast")
    }
    for part, config in text_configs(shapes, structure).items():
        assert not differing(config, getattr(pipe, part).config.to_dict()) - {"architectures"}
    found = from_file(type(pipe), resolve_checkpoint(file), {"safety_checker": None} if eight else {}, torch.float32)
    for part in ("unet", "vae", *text_configs(shapes, structure)):
        made, wanted = (getattr(one, part).state_dict() for one in (found, pipe))
        assert made.keys() == wanted.keys() and all(torch.equal(made[key], wanted[key]) for key in wanted)


def ldm_shapes(unet: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in unet_ldm(unet)}


def test_sd_turbos_true_shapes_give_its_true_configuration() -> None:
    true = {
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "layers_per_block": 2,
        "use_linear_projection": True,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**true, "sample_size": 64})
    made = unet_config(ldm_shapes(unet), SD2, 64)
    assert {key: made[key] for key in true} == true
    assert "transformer_layers_per_block" not in made and made["sample_size"] == 64


@pytest.mark.parametrize(
    ("stem", "metadata", "name"),
    [
        ("sd_turbo", {}, "sd-turbo"),
        ("model", {"modelspec.title": "SD Turbo"}, "sd-turbo"),
        ("v2-1_768-ema-pruned", {}, "sd21"),
        ("v2-1_512-ema-pruned", {}, "sd21-base"),
        ("512-base-ema", {}, "sd21-base"),
        ("768-v-ema", {}, "sd21"),
        ("mine-sd21-base", {}, "sd21-base"),
        ("mine", {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "sd21"),
        ("mine", {"modelspec.architecture": "stable-diffusion-v1"}, None),
        ("mine", {}, None),
    ],
)
def test_a_file_of_sd_2s_shapes_is_told_by_name_and_header(stem: str, metadata: dict[str, str], name: str) -> None:
    assert model_of(SD2, stem, metadata) == name


def refused(file: Path, **options: Any) -> str:
    with pytest.raises(UserError) as told:
        load_pipeline(resolve_checkpoint(file, **options))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_file_that_could_be_several_models_is_not_guessed(turbo: Path, tmp_path: Path) -> None:
    file = tmp_path / "mymodel.safetensors"
    file.symlink_to(turbo / "sd_turbo.safetensors")
    told = refused(file)
    assert all(name in told for name in ("--config", "sd-turbo", "sd21-base", "sd21"))
    for name in ("sd-turbo", "sd21"):
        kind = config_of(resolve_checkpoint(file, name), "scheduler")["_class_name"]
        assert kind == MODELS[name].scheduler["_class_name"]
    assert "is Stable Diffusion 1.x, and" in refused(file, config="sd15")
    assert "model_index.json" in refused(file, config=str(tmp_path))
    save_file(load_file(file), tmp_path / "turbo.safetensors", {"modelspec.prediction_type": "v"})
    assert "predicts v" in refused(tmp_path / "turbo.safetensors")
    assert "configurations of its own" in refused(turbo / "diffusers", config="sd-turbo")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",), "by --lora"),
        (("down_blocks.0.resnets.0.conv1.weight",), "by --base"),
        (("model.diffusion_model.double_blocks.0.img_attn.proj.weight",), "FLUX"),
        (("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight",), "Stable Diffusion 3"),
        (("decoder.conv_in.weight",), "by --vae"),
        (("first_stage_model.decoder.conv_in.weight",), "by --vae"),
        (("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.ln_final.bias"), "no autoencoder"),
        (("a.weight",), "original layout"),
    ],
)
def test_other_files_are_told_in_one_line(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "file.safetensors")
    assert said in refused(tmp_path / "file.safetensors")


def test_what_is_refused_of_a_file_goes_by_the_files_name(turbo: Path, tmp_path: Path) -> None:
    tensors = load_file(turbo / "sd_turbo.safetensors")
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(64, 9, 3, 3)
    save_file(tensors, tmp_path / "sd_turbo.safetensors")
    with pytest.raises(UserError, match="inpainting") as told:
        locate(tmp_path / "sd_turbo.safetensors")
    assert str(told.value).startswith(f"{tmp_path / 'sd_turbo.safetensors'}: ")


def test_only_safetensors_are_opened(tmp_path: Path) -> None:
    for name, said in (("model.ckpt", "pickle"), ("model.gguf", "safetensors"), ("model.safetensors", "damaged")):
        (tmp_path / name).write_bytes(b"x")
        assert said in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lacks", "input_blocks.1.0.in_layers.2.weight"),
        ("beside", "time_embed.cond_proj.weight"),
        ("shape", "time_embed.2.weight"),
    ],
)
def test_a_file_that_does_not_fit_its_network_is_refused(change: str, said: str, turbo: Path, tmp_path: Path) -> None:
    tensors = load_file(turbo / "sd_turbo.safetensors")
    key = f"model.diffusion_model.{said}"
    if change == "lacks":
        del tensors[key]
    else:
        tensors[key] = torch.zeros(3, 4)
    save_file(tensors, tmp_path / "sd_turbo.safetensors")
    told = refused(tmp_path / "sd_turbo.safetensors")
    assert "sd_turbo.safetensors" in told and "--config" in told


def test_a_unet_alone_takes_the_place_of_its_bases(turbo: Path, tmp_path: Path) -> None:
    origin = turbo / "diffusers"
    torch.manual_seed(1)
    other = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(origin / "unet"))
    other.save_pretrained(tmp_path / "distilled")
    judge = StableDiffusionPipeline.from_pretrained(origin, unet=other, local_files_only=True)
    expected = draw(judge)
    for given, base in (
        (tmp_path / "distilled", origin),
        (tmp_path / "distilled" / "diffusion_pytorch_model.safetensors", origin),
    ):
        folder = locate(given, base=str(base))
        assert (draw(load_pipeline(folder)) == expected).all()
        assert checkpoint_sha256(folder) != checkpoint_sha256(origin)
    assert (
        folder.name == "diffusion_pytorch_model"
        and locate(tmp_path / "distilled", base=str(origin)).name == "distilled"
    )
    whole = resolve_checkpoint(tmp_path / "distilled", base=str(turbo / "sd_turbo.safetensors"))
    found, wanted = load_pipeline(whole).unet.state_dict(), other.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_unet_alone_is_told_and_what_is_none_is_refused(turbo: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").symlink_to(turbo / "diffusers" / "unet")
    with pytest.raises(UserError, match="is a U-Net alone: give the pipeline with the other parts by --base"):
        locate(tmp_path / "unet")
    base = str(turbo / "diffusers")
    for given, said in (
        (turbo / "diffusers" / "vae", "is a AutoencoderKL"),
        (tmp_path, "folder of a U-Net"),
        (turbo / "sd_turbo.safetensors", "leave --base out"),
    ):
        assert said in refused(given, base=base)
