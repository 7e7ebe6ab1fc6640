"""SDXL as a teacher: its U-Net is told what diffusers tells it, a pruned student comes out, both are evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

import runtime
from export.checks.measure import psnr_db
from export.onnx.__main__ import main as export_onnx
from scripts.zoo_parts import sdxl_unet
from tests.support.small_sdxl import LEVELS, small_sdxl
from tests.support.train_fixtures import make_data
from train.__main__ import main as train_command
from train.checkpoint import load_pipeline
from train.data.encoders import encode_captions
from train.evaluate.__main__ import main as evaluate
from train.evaluate.evaluation import SHEET_SEED, sheet_prompts
from train.evaluate.generators import checkpoint_generator
from train.families import KINDS, SDXL
from train.opening.second_text import ToldUNet, plain, text_parts, text_rows, told
from train.run.build import check_teacher
from train.sizes import multiply_adds
from train.student import build_student

TEXTS = ["a red disc", "", "a green square on white"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with two blocks in each stage, so that there is something to prune."""
    torch.manual_seed(5)
    unet = sdxl_unet(**LEVELS | {"layers_per_block": 2}).eval()
    return small_sdxl(tmp_path_factory.mktemp("sdxl") / "teacher", unet=unet)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load_pipeline(folder, kinds=KINDS)


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers computes: a processor that has bf16 would take it."""
    monkeypatch.setattr("train.evaluate.generators.computes_in_bf16", lambda device: False)


def test_a_text_is_what_diffusers_encodes(pipe: Any) -> None:
    encoder, tokenizer = text_parts(pipe, SDXL)
    text, pooled = encode_captions(encoder, tokenizer, TEXTS)
    states, none, row, zero = pipe.encode_prompt(TEXTS[0], num_images_per_prompt=1, device="cpu")
    assert text.shape == (3, text_rows(pipe.unet), states.shape[-1]) and text_rows(pipe.unet) == 78
    torch.testing.assert_close(text[0, :77], states[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(text[0, 77, : row.shape[-1]], row[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(text[1, :77], none[0]) and torch.equal(text[1, 77, : row.shape[-1]], zero[0])  # zeros
    assert text[2].abs().sum() > 0 and torch.equal(pooled, text[:, 77])


def test_a_told_unet_computes_what_diffusers_pipeline_asks_for(pipe: Any) -> None:
    seen: list[dict[str, Any]] = []
    hook = pipe.unet.register_forward_hook(
        lambda _, given, named, made: seen.append({"given": given, "made": made[0], **named}), with_kwargs=True
    )
    pipe(TEXTS[0], num_inference_steps=1, guidance_scale=0.0, output_type="latent")
    hook.remove()
    (call,) = seen
    text = encode_captions(*text_parts(pipe, SDXL), TEXTS[:1])[0]
    unet = told(pipe.unet, pipe.vae_scale_factor)
    assert isinstance(unet, ToldUNet)
    with torch.no_grad():
        found = unet(*call["given"][:2], text).sample
    assert type(plain(unet)).__name__ == "UNet2DConditionModel"
    torch.testing.assert_close(found, call["made"], rtol=1e-4, atol=1e-4)


def test_students_keep_what_the_second_text_needs(pipe: Any) -> None:
    check_teacher(pipe, "sdxl")
    student = build_student(pipe.unet, "base")
    assert multiply_adds(student) < multiply_adds(pipe.unet)
    for part in ("add_embedding.linear_1", "time_embedding.linear_1"):
        assert torch.equal(student.get_submodule(part).weight, pipe.unet.get_submodule(part).weight)


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (2, 1.0), (3, 4.0)])
def test_evaluated_pictures_are_those_of_diffusers_pipeline(
    pipe: Any, folder: Path, steps: int, guidance: float
) -> None:
    """Its own ancestral scheduler, whose fresh noise is a picture's own in a batch too, and its own guidance."""
    judge = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    judge.set_progress_bar_config(disable=True)
    prompts, seeds = [TEXTS[0], TEXTS[2], TEXTS[0]], [5, 6, 7]
    found = checkpoint_generator(pipe, guidance, batch=2)(prompts, seeds, steps)
    for picture, prompt, seed in zip(found, prompts, seeds, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        options = {"num_inference_steps": steps, "guidance_scale": guidance}
        expected = np.asarray(judge(prompt, generator=generator, **options).images[0])
        assert expected.std() > 5 and psnr_db(expected, picture, peak=255) >= 60


def test_the_evaluations_command_takes_sdxl_as_student_and_teacher(folder: Path, tmp_path: Path, capsys: Any) -> None:
    data = make_data(tmp_path / "data")
    numbers = (
        "--n 3 --steps 1 2 --teacher-steps 2 --within 1 --features mobilenet_v2 --text-embedder words --device cpu"
    )
    sheets = f"--sheet {tmp_path / 'sheet.png'} --compare {tmp_path / 'compare.png'}"
    assert evaluate(f"{folder} --teacher {folder} --data {data} {numbers} {sheets} --json".split()) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["alignment"].keys() == {"teacher_2", "student_1", "student_2", "real"}
    assert figures["params"]["student"] == sum(p.numel() for p in load_pipeline(folder, kinds=KINDS).unet.parameters())
    judge = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    sheet = Image.open(tmp_path / "sheet.png")
    first = sheet_prompts(None, data, folder)[0]
    drawn = judge(first, generator=torch.Generator().manual_seed(SHEET_SEED), num_inference_steps=1, guidance_scale=1.0)
    expected = np.asarray(drawn.images[0])
    corner = np.asarray(sheet)[4 : 4 + expected.shape[0], 4 : 4 + expected.shape[1]]
    assert psnr_db(expected, corner, peak=255) >= 60 and (tmp_path / "compare.png").is_file()


@pytest.mark.slow
def test_a_student_of_sdxl_is_trained_opened_and_exported(folder: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    settings = "batch=4 max_steps=2 save_every=2 layers=1,1 score_pictures=0 threads=1"
    places = f"teacher={folder} data={data} run_dir={tmp_path / 'run'}"
    assert not train_command(f"--preset smoke {places} {settings}".split())
    made = tmp_path / "run" / "pipeline"
    judge = StableDiffusionXLPipeline.from_pretrained(made, add_watermarker=False)
    judge.set_progress_bar_config(disable=True)
    assert json.loads((made / "unet" / "config.json").read_text())["_class_name"] == "UNet2DConditionModel"
    assert len(judge.unet.down_blocks[1].attentions) == 1
    before = load_pipeline(folder, kinds=KINDS).unet
    moved = (judge.unet.add_embedding.linear_1.weight - before.add_embedding.linear_1.weight).abs().max()
    assert 0 < moved < 0.1
    options = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "np"}
    expected = judge("a red disc", generator=torch.Generator("cpu").manual_seed(3), **options).images
    assert export_onnx([str(made), "--out", str(tmp_path / "onnx")]) == 0
    found = runtime.load(tmp_path / "onnx", "cpu")("a red disc", seed=3, output_type="np")
    assert psnr_db(np.asarray(expected), found, peak=1.0) >= 60
