"""Random teachers: diffusers opens them, their activations stay finite, their pictures are not constant."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from runtime.errors import UserError
from train.checkpoint import load_pipeline
from train.random_teacher import SHAPES, Shape, main, make_random_teacher, random_text_encoder, random_unet, random_vae
from train.sizes import count_parameters

torch.set_num_threads(1)  # toy tensors: with more, threads mostly wait for one another


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_teacher(tmp_path_factory.mktemp("random") / "tiny", "tiny")


def test_the_folder_is_a_diffusers_pipeline(folder: Path) -> None:
    pipe = load_pipeline(folder)
    assert pipe.unet.config.sample_size == 8 and pipe.scheduler.config.prediction_type == "v_prediction"
    assert len(pipe.tokenizer) == pipe.text_encoder.config.vocab_size == 49408
    kinds = {"down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]}
    assert all(list(pipe.unet.config[key]) == value for key, value in kinds.items())
    assert [len(stage.resnets) for stage in pipe.unet.down_blocks] == [2, 2, 2]
    assert load_pipeline(folder, torch.float16).unet.dtype == torch.float16
    assert not list(folder.rglob("*.bin"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_step_is_finite_and_not_constant_in_half_precision(folder: Path, dtype: torch.dtype) -> None:
    pipe = load_pipeline(folder, dtype)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    picture = pipe("a fox", num_inference_steps=1, guidance_scale=1.0, output_type="pt").images.float()
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()
    assert 0.1 < picture.std() < 0.5 and 0.3 < picture.mean() < 0.7


@torch.no_grad()
def test_scales_are_those_of_a_trained_pipeline(folder: Path) -> None:
    pipe, noise = load_pipeline(folder), torch.Generator().manual_seed(5)
    text = torch.randn(4, 77, 32, generator=noise)
    v = pipe.unet(torch.randn(4, 4, 8, 8, generator=noise), 999, text).sample
    assert 0.5 < v.std() < 2
    pictures = torch.rand(4, 3, 8, 8, generator=noise).repeat_interleave(8, -1).repeat_interleave(8, -2) * 2 - 1
    assert 0.5 < pipe.vae.encode(pictures).latents.std() < 2


def test_the_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    same, other = (make_random_teacher(tmp_path / str(seed), "tiny", seed) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    ours, again, third = (load_pipeline(path).unet.conv_in.weight for path in (folder, same, other))
    assert torch.equal(ours, again) and not torch.equal(ours, third)


def on_meta(shape: Shape) -> UNet2DConditionModel:
    with torch.device("meta"):
        return random_unet(shape)


def test_a_one_step_schedulers_first_timestep_is_the_last_one(tmp_path: Path) -> None:
    folder = make_random_teacher(tmp_path / "student", "tiny", one_step=True)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (config["timestep_spacing"], config["set_alpha_to_one"], config["clip_sample"]) == ("trailing", True, False)


def test_the_large_shapes_have_the_published_sizes(folder: Path) -> None:
    assert count_parameters(on_meta(SHAPES["sd15"])) == 859_520_964
    assert count_parameters(on_meta(SHAPES["sd21"])) == 865_910_724
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    with torch.device("meta"):
        assert count_parameters(random_text_encoder(SHAPES["sd15"], tokenizer)) == 123_060_480
        assert count_parameters(random_text_encoder(SHAPES["sd21"], tokenizer)) == 340_387_840
        assert count_parameters(random_vae(SHAPES["sd21"])) == 2_445_063  # TAESD


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    output = io.StringIO()
    with redirect_stdout(output):
        main(["tiny", "--out", str(tmp_path / "teacher"), "--prediction-type", "epsilon"])
    assert "parameters" in output.getvalue() and "peak memory" in output.getvalue()
    assert load_pipeline(tmp_path / "teacher").scheduler.config.prediction_type == "epsilon"


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match="something other"):
        make_random_teacher(tmp_path, "tiny")
    with pytest.raises(UserError, match="choose one of tiny, sd15, sd21"):
        make_random_teacher(tmp_path / "new", "sd9")
    with pytest.raises(UserError, match="prediction type"):
        make_random_teacher(tmp_path / "new", "tiny", prediction_type="noise")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_the_autoencoder_may_be_stable_diffusions_own(tmp_path: Path) -> None:
    pipe = load_pipeline(make_random_teacher(tmp_path / "kl", "tiny", one_step=True, vae="kl"))
    assert type(pipe.vae).__name__ == "AutoencoderKL" and pipe.vae.config.scaling_factor == 0.18215
    picture = pipe("a fox", num_inference_steps=1, guidance_scale=1.0, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64) and 0.1 < picture.std() < 0.5 and 0.3 < picture.mean() < 0.7
    with pytest.raises(UserError, match="pq: unknown autoencoder; choose one of tiny, kl"):
        make_random_teacher(tmp_path / "other", "tiny", vae="pq")
