"""A checkpoint that cannot become a good export is refused in one line before anything is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from export.checks.weights import LARGEST_HALF, preflight, watching
from export.onnx import __main__ as onnx
from export.source import Source, open_source
from export.steps import steps_of
from runtime.errors import UserError
from tests.support.tiny import small_checkpoint
from train.checkpoint import load_pipeline

ROOT = Path(__file__).resolve().parent.parent
UNET = "unet/diffusion_pytorch_model.safetensors"
Change = Callable[[Path], None]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(small_checkpoint(), tmp_path / "checkpoint")


def refused(checkpoint: Path | str, capfd: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line with which `python -m export.onnx` refuses a checkpoint, having written nothing."""
    folder = Path(checkpoint).parent / "written"
    code = onnx.main([str(checkpoint), "--out", str(folder / "out"), *options])
    printed = capfd.readouterr()
    assert code == 2 and printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert not folder.exists() or not list(folder.iterdir())
    return printed.err


def json_change(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def weight_change(name: str, key: str, change: Callable[[torch.Tensor], object]) -> Change:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors[key])
        save_file(tensors, folder / name)

    return changed


def set_first(value: float) -> Callable[[torch.Tensor], object]:
    return lambda weight: weight.view(-1)[:2].fill_(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(value: float, checkpoint: Path, capfd) -> None:
    weight_change(UNET, "conv_out.weight", set_first(value))(checkpoint)
    weight_change("vae/diffusion_pytorch_model.safetensors", "decoder.layers.0.bias", set_first(value))(checkpoint)
    line = refused(checkpoint, capfd)
    assert "unet.conv_out.weight holds 2 NaN or infinite values, and 1 more tensor" in line


def test_the_command_itself_says_one_line(checkpoint: Path) -> None:
    weight_change(UNET, "conv_in.weight", set_first(float("nan")))(checkpoint)
    out = checkpoint.parent / "out"
    command = [sys.executable, "-m", "export.onnx", str(checkpoint), "--out", str(out)]
    found = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2 and found.stdout == "" and len(found.stderr.splitlines()) == 1
    assert "unet.conv_in.weight" in found.stderr and not out.exists()


def test_a_weight_beyond_half_precision_is_refused_where_it_matters(checkpoint: Path, capfd) -> None:
    weight_change(UNET, "conv_in.weight", set_first(-7e4))(checkpoint)
    line = refused(checkpoint, capfd, "--precision", "fp16")
    assert "unet.conv_in.weight reaches 7e+04, beyond fp16's 65504" in line and "fp32" in line
    preflight(open_source(str(checkpoint)), "fp32")
    preflight(open_source(str(checkpoint)), "int8")


def test_an_activation_beyond_half_precision_is_refused_where_it_matters(checkpoint: Path, capfd) -> None:
    """A convolution gives more than fp16 holds although each of its weights fits."""
    weight_change(UNET, "down_blocks.0.resnets.0.conv1.weight", lambda weight: weight.mul_(3e5))(checkpoint)
    line = refused(checkpoint, capfd, "--precision", "fp16")
    assert "unet.down_blocks.0.resnets.0.conv1 reaches" in line and "beyond fp16's 65504" in line
    with watching(open_source(str(checkpoint)), "fp32") as watch:
        assert not watch.reached


def test_a_sum_beyond_half_precision_is_seen_at_the_layer_that_takes_it() -> None:
    source = open_source(str(small_checkpoint()))
    norm = source.pipe.unet.conv_norm_out
    with pytest.raises(UserError, match="input of unet.conv_norm_out reaches 1.31e\\+05"), watching(source, "fp16"):
        norm(torch.full((1, norm.num_channels, 2, 2), 2 * LARGEST_HALF))


def test_hooks_are_gone_after_the_block() -> None:
    source = open_source(str(small_checkpoint()))
    with pytest.raises(ZeroDivisionError), watching(source, "palettized-6bit"):
        assert any(module._forward_hooks for module in source.pipe.unet.modules())
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in source.pipe.unet.modules())


CONFIGS = [
    ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "its text_encoder_2 is a None"),
    ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "second text encoder, which is SDXL's"),
    ("model_index.json", {"_class_name": "StableDiffusionControlNetPipeline"}, "control picture"),
    (
        "model_index.json",
        {"_class_name": "FluxPipeline"},
        "a FluxPipeline is not exported or distilled: it belongs to the family FLUX",
    ),
    ("model_index.json", {"vae": ["diffusers", "VQModel"]}, "its vae is a VQModel"),
    ("model_index.json", {"vae_decoder": ["diffusers", "OnnxRuntimeModel"]}, "an export already"),
    ("unet/config.json", {"addition_embed_type": "text_time"}, "is SDXL's: it needs a second text encoder"),
    ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type is 'image'"),
    ("unet/config.json", {"class_embed_type": "timestep"}, "class labels"),
    ("unet/config.json", {"num_class_embeds": 10}, "class labels"),
    ("unet/config.json", {"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type"),
    ("unet/config.json", {"attention_type": "gated"}, "attention_type is 'gated'"),
    ("unet/config.json", {"in_channels": 9}, "takes 9 channels and gives 4: inpainting"),
    ("unet/config.json", {"sample_size": None}, "no sample_size"),
    ("unet/config.json", {"up_block_types": 3}, "not of the form that diffusers writes"),
    ("unet/config.json", {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "has a SkipDownBlock2D"),
    ("unet/config.json", {"cross_attention_dim": 1024}, "32 numbers a token, the U-Net takes 1024"),
    ("text_encoder/config.json", {"max_position_embeddings": 248}, "must read 77 tokens, not 248"),
    ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type is 'sample'"),
    ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow model"),
    ("scheduler/scheduler_config.json", {"thresholding": True}, "set thresholding to false"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
    ("scheduler/scheduler_config.json", {"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "pure noise"),
]


@pytest.mark.parametrize(("name", "values", "said"), CONFIGS)
def test_what_the_graphs_cannot_express_is_named(
    name: str, values: dict[str, Any], said: str, checkpoint: Path, capfd
) -> None:
    json_change(name, **values)(checkpoint)
    assert said in refused(checkpoint, capfd)


def test_clip_sample_counts_where_diffusers_lets_it(checkpoint: Path, capfd) -> None:
    """StableDiffusionPipeline turns it off in whatever scheduler it is given; latent consistency models' does not."""
    json_change("scheduler/scheduler_config.json", clip_sample=True)(checkpoint)
    assert onnx.main([str(checkpoint), "--out", "nowhere", "--dry-run"]) == 0
    pipe = load_pipeline(checkpoint)
    assert (
        StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None).scheduler.config.clip_sample is False
    )
    assert pipe.scheduler.config.clip_sample is False
    assert steps_of(pipe.scheduler, 4) == steps_of(load_pipeline(small_checkpoint()).scheduler, 4)
    capfd.readouterr()
    json_change("model_index.json", _class_name="LatentConsistencyModelPipeline")(checkpoint)
    assert "set clip_sample to false" in refused(checkpoint, capfd)
    json_change("scheduler/scheduler_config.json", _class_name="LCMScheduler")(checkpoint)
    assert "its LCMScheduler changes single values of the latents (clip_sample)" in refused(checkpoint, capfd)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_a_damaged_or_missing_configuration_is_named(name: str, checkpoint: Path, capfd) -> None:
    (checkpoint / name).write_text("{")
    assert name in refused(checkpoint, capfd)
    if name != "model_index.json":
        (checkpoint / name).unlink()
        assert f"{name} is missing" in refused(checkpoint, capfd)


def test_what_is_no_pipeline_folder_gets_a_hint(checkpoint: Path, tmp_path: Path, capfd) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "pipeline")
    assert f"give {run / 'pipeline'}" in refused(run, capfd)
    assert f"is one part of a pipeline: give {checkpoint}" in refused(checkpoint / "unet", capfd)
    assert "by --base" in refused(checkpoint / UNET, capfd)
    assert f"give its folder, {checkpoint}" in refused(checkpoint / "model_index.json", capfd)
    assert "hf download some/model" in refused("some/model", capfd)
    assert "no diffusers pipeline there" in refused(tmp_path / "nowhere", capfd)


@pytest.mark.parametrize("name", ["unet/model.onnx", "unet/openvino_model.xml"])
def test_an_export_given_by_mistake_is_told(name: str, checkpoint: Path, tmp_path: Path, capfd) -> None:
    export = tmp_path / "export"
    (export / name).parent.mkdir(parents=True)
    (export / name).touch()
    assert "give the checkpoint that it was made from" in refused(export, capfd)
    shutil.copyfile(checkpoint / "model_index.json", export / "model_index.json")
    assert "give the checkpoint that it was made from" in refused(export, capfd)


def test_lora_weights_alone_are_told(tmp_path: Path, capfd) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").touch()
    assert "the file by --lora" in refused(tmp_path / "lora", capfd)


def with_scheduler(source: Source, kind: str, **config: Any) -> Source:
    import diffusers

    source.pipe.scheduler = getattr(diffusers, kind)(**config)
    return source


@pytest.mark.parametrize(
    ("kind", "config", "warned"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True}, True),  # Stable Diffusion 1 and 2
        ("DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}, True),  # Stable Diffusion 2.1
        ("DPMSolverMultistepScheduler", {}, True),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, True),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, False),  # SD-Turbo
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, False),
        ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, False),
        ("DEISMultistepScheduler", {}, False),  # SDXS
        ("LCMScheduler", {}, False),
        ("TCDScheduler", {}, False),
    ],
)
def test_models_of_many_steps_are_warned_of(kind: str, config: dict[str, Any], warned: bool, capfd) -> None:
    preflight(with_scheduler(open_source(str(small_checkpoint())), kind, **config), "fp32")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == warned
    assert not warned or ("looks like a multi-step model" in lines[0] and kind in lines[0])


def test_a_teacher_is_warned_of_and_a_student_is_not(checkpoint: Path, capfd) -> None:
    json_change("training.json", role="teacher")(checkpoint)
    preflight(open_source(str(checkpoint)), "fp32")
    assert "training.json says that it is a teacher" in capfd.readouterr().err
    json_change("training.json", role="student", method="adversarial diffusion distillation")(checkpoint)
    preflight(open_source(str(checkpoint)), "fp32")
    preflight(open_source("sticker-128"), "fp16")
    assert capfd.readouterr().err == ""
    preflight(open_source("sticker-128-teacher"), "fp16")
    assert "sticker-128-teacher looks like a multi-step model" in capfd.readouterr().err
