"""Every row of the paper's ablation is one setting; settings are checked, saved and read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from runtime.errors import UserError
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.__main__ import main
from train.config import Config, from_json, to_json
from train.presets import make_config
from train.random_teacher import make_random_teacher
from train.run.add_task import AddTrainer
from train.run.engine import choose_precision


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def base(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return step_with(parts, tmp_path_factory.mktemp("runs") / "base")


def step_with(parts: Parts, run_dir: Path, **changes: Any) -> dict[str, float]:
    trainer = AddTrainer(add_config(parts, run_dir, **changes))
    measured = {name: float(value) for name, value in trainer.train_step().items()}
    assert measured["grad_norm"] > 0
    assert all(torch.isfinite(torch.tensor(value)) for value in measured.values())
    return measured


ROWS: dict[str, dict[str, Any]] = {
    "features of the teacher (LADD)": {"features": "teacher"},
    "LADD, adversarial loss alone": {"features": "teacher", "loss": "adv"},
    "conditioned on nothing": {"conditioning": "none"},
    "conditioned on text": {"conditioning": "text"},
    "conditioned on the image": {"conditioning": "image"},
    "random start": {"init": "random"},
    "adversarial loss alone": {"loss": "adv"},
    "distillation loss alone": {"loss": "distill"},
    "score distillation": {"weighting": "sds"},
    "noise-free score distillation": {"weighting": "nfsd"},
    "teacher of two steps": {"teacher_steps": 2},
    "teacher of four steps": {"teacher_steps": 4},
    "student of one step": {"student_steps": 1},
    "student of two steps": {"student_steps": 2},
    "whole teacher": {"init": "pretrained"},
    "distance in latents": {"space": "latent"},
    "the real decoder": {"decoder": "vae"},
    "no guidance": {"guidance": 1.0},
    "three discriminator updates": {"discriminator_updates": 3},
    "no R1": {"r1_weight": 0.0},
    "no augmentation": {"augment": False},
    "half of the batch is seen": {"adversarial_batch": 4},
    "LoRA": {"student": "lora", "lora_rank": 4},
    "the other precision": {"precision": "fp32" if choose_precision("auto", "cpu") == "bf16" else "bf16"},
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_setting_that_changes_the_step(
    parts: Parts, base: dict[str, float], tmp_path: Path, row: str
) -> None:
    assert step_with(parts, tmp_path / "run", **ROWS[row]) != base


def test_the_terms_are_those_that_were_asked_for(parts: Parts, base: dict[str, float], tmp_path: Path) -> None:
    assert {"loss_adv", "loss_distill", "loss_d", "r1", "grad_ratio"} <= base.keys() and "loss_rec" not in base
    distill = step_with(parts, tmp_path / "a", loss="distill")
    assert "loss_adv" not in distill and "loss_d" not in distill
    adv = step_with(parts, tmp_path / "b", loss="adv", reconstruction_weight=1.0)
    assert "loss_distill" not in adv and "loss_rec" in adv


def test_the_discriminator_learns_before_its_loss_counts(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", discriminator_start=1))
    first, second = trainer.train_step(), trainer.train_step()
    assert "loss_adv" not in first and "loss_d" in first and "loss_adv" in second


def test_r1_can_be_taken_now_and_then(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", r1_every=2))
    assert ["r1" in trainer.train_step() for _ in range(4)] == [True, False, True, False]


def test_a_student_can_go_on_from_a_checkpoint(parts: Parts, tmp_path: Path) -> None:
    first = AddTrainer(add_config(parts, tmp_path / "first", max_steps=1))
    pipeline = first.run()
    second = AddTrainer(add_config(parts, tmp_path / "second", init=str(pipeline), student="full"))
    torch.testing.assert_close(
        second.task.student.conv_in.weight, first.task.ema.weights["conv_in.weight"], atol=1e-3, rtol=1e-3
    )


def test_a_lora_student_keeps_one_step(parts: Parts, tmp_path: Path) -> None:
    """Adapters alone learn, the saved pipeline is merged, and the adapters open in a plain pipeline of the base."""
    trainer = AddTrainer(add_config(parts, tmp_path / "run", student="lora", lora_rank=4, lr=0.02, max_steps=2))
    before = trainer.task.draw(2)
    target = trainer.run()
    after = trainer.task.draw(2)
    assert not torch.equal(before, after)
    merged, adapted = (
        StableDiffusionPipeline.from_pretrained(folder, safety_checker=None) for folder in (target, parts["teacher"])
    )
    adapted.load_lora_weights(tmp_path / "run" / "lora")
    pictures = []
    for pipeline in (merged, adapted):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        made = pipeline("a red disc", num_inference_steps=1, guidance_scale=0.0, generator=generator, output_type="np")
        pictures.append(torch.from_numpy(made.images[0]))
    torch.testing.assert_close(pictures[0], pictures[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_any_stable_diffusion_shaped_teacher(parts: Parts, tmp_path: Path, kind: str) -> None:
    teacher = make_random_teacher(tmp_path / "teacher", "tiny", prediction_type=kind)
    changes: dict[str, Any] = {"teacher": str(teacher), "decoder": "vae", "student": "small", "max_steps": 1}
    trainer = AddTrainer(add_config(parts, tmp_path / "run", **changes))
    assert trainer.task.parts.levels.prediction_type == kind
    target = trainer.run()
    saved = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    assert saved.scheduler.config.prediction_type == kind
    assert saved.scheduler.config.timestep_spacing == "trailing"
    saved.set_progress_bar_config(disable=True)
    image = saved("a disc", num_inference_steps=1, guidance_scale=0.0).images[0]
    assert image.size == (64, 64)


def test_a_teacher_with_a_kl_autoencoder(parts: Parts, tmp_path: Path) -> None:
    """Stable Diffusion's own kind: a scaling factor, and a decoder that is not ours."""
    from diffusers import AutoencoderKL

    pipeline = StableDiffusionPipeline.from_pretrained(parts["teacher"], safety_checker=None)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(8,) * 4, latent_channels=4, norm_num_groups=4, sample_size=64, **blocks)
    pipeline.register_modules(vae=vae)
    pipeline.save_pretrained(tmp_path / "teacher")
    target = AddTrainer(add_config(parts, tmp_path / "run", teacher=str(tmp_path / "teacher"), max_steps=1)).run()
    saved = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    assert isinstance(saved.vae, AutoencoderKL)
    assert saved("a disc", num_inference_steps=1, guidance_scale=0.0).images[0].size == (64, 64)


def test_one_step_in_diffusers_is_the_students_sample(parts: Parts, tmp_path: Path) -> None:
    """What the trainer draws is what a user's diffusers pipeline makes of the saved folder, with the same noise."""
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=1))
    pipeline = StableDiffusionPipeline.from_pretrained(trainer.run(), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    ours = trainer.task.draw(1)[0].permute(1, 2, 0) / 2 + 0.5
    states = trainer.task.parts.probe.text[:1]
    generator = torch.Generator().manual_seed(0)
    theirs = pipeline(
        prompt_embeds=states, num_inference_steps=1, guidance_scale=0.0, generator=generator, output_type="np"
    ).images[0]
    torch.testing.assert_close(ours.clamp(0, 1), torch.from_numpy(theirs), atol=0.03, rtol=0)


# ---- what is refused, and how ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("nosuch=1", "is not a setting"),
        ("learning_rat=1", "is not a setting"),
        ("weightin=sds", "did you mean weighting"),
        ("batch", "key=value"),
        ("batch=many", "expected a value"),
        ("loss=gan", "choose one of"),
        ("batch=0", "at least"),
        ("adversarial_batch=64", "batch"),
        ("noise_levels=1000", "0..999"),
        ("level_shares=1,1", "noise levels"),
        ("micro_batch=7", "multiple"),
        ("student_steps=0", "1 to 1000"),
        ("features=dino", "did you mean dinov2"),
        ("student=medium", "choose one of"),
        ("r1_every=0", "at least 1"),
        ("grad_clip=-1", "must lie in"),
        ("lr=nan", "must lie in"),
        ("ema=2", "must lie in"),
        ("seed=-1", "must lie in"),
        ("score_pictures=1", "more than one"),
        ("compositions=1", "must lie in"),
    ],
)
def test_bad_settings_name_what_is_allowed(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_config("demo", [override])


def test_settings_survive_json() -> None:
    overrides = ["layers=1,1", "mid_block=false", "lr=5e-5", "max_steps=7", "attention=true,false"]
    settings = make_config("sticker", overrides)
    assert settings.layers == (1, 1) and settings.mid_block is False and settings.lr == 5e-5
    assert from_json(to_json(settings)) == settings
    with pytest.raises(UserError, match="config.json"):
        from_json('{"surprise": 1}')


def test_noise_levels_follow_the_students_steps() -> None:
    assert Config("", "").timesteps == (999, 749, 499, 249)
    assert make_config("demo", ["student_steps=2", "level_shares="]).timesteps == (999, 499)
    assert make_config("demo", ["noise_levels=999,1", "level_shares=3,1"]).shares == (0.75, 0.25)


def mismatched(parts: Parts, tmp_path: Path) -> str:
    """A pipeline whose U-Net was made for another text encoder."""
    from diffusers import UNet2DConditionModel

    pipeline = StableDiffusionPipeline.from_pretrained(parts["teacher"], safety_checker=None)
    config = dict(pipeline.unet.config, cross_attention_dim=24)
    pipeline.register_modules(unet=UNet2DConditionModel.from_config(config))
    pipeline.save_pretrained(tmp_path / "mismatched")
    return str(tmp_path / "mismatched")


def test_a_teacher_whose_parts_do_not_fit_is_refused(parts: Parts, tmp_path: Path) -> None:
    config = add_config(parts, tmp_path / "run", teacher=mismatched(parts, tmp_path))
    with pytest.raises(UserError, match="24 wide.*16 wide"):
        AddTrainer(config)


def test_another_runs_folder_is_not_gone_on_with(parts: Parts, tmp_path: Path) -> None:
    AddTrainer(add_config(parts, tmp_path / "run", max_steps=1)).run()
    with pytest.raises(UserError, match="holds a run with lr=0.001; continue it with"):
        AddTrainer(add_config(parts, tmp_path / "run", max_steps=1, lr=0.5)).run()
    longer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=2))
    longer.run()
    assert longer.step == 2


def test_a_start_that_does_not_fit_the_teacher_is_refused(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="init=sticker-128: its U-Net has in_channels=32, the teacher's has 4"):
        AddTrainer(add_config(parts, tmp_path / "run", init="sticker-128"))
    other = make_random_teacher(tmp_path / "epsilon", "tiny", prediction_type="epsilon")
    same = make_random_teacher(tmp_path / "v", "tiny", prediction_type="v_prediction")
    with pytest.raises(UserError, match="another prediction type"):
        AddTrainer(add_config(parts, tmp_path / "run", teacher=str(same), init=str(other), student="full"))


def test_single_precision_reaches_every_network(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", precision="fp32"))
    seen: list[torch.dtype] = []
    for network in (trainer.task.student, trainer.task.parts.teacher):
        network.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train_step()
    trainer.task.draw(1)
    assert len(seen) >= 3 and set(seen) == {torch.float32}


def test_a_run_dir_that_is_a_file_is_refused(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        AddTrainer(add_config(parts, tmp_path / "file"))


def test_a_checkpoint_of_another_student_is_refused(parts: Parts, tmp_path: Path) -> None:
    AddTrainer(add_config(parts, tmp_path / "run")).save()
    other = AddTrainer(add_config(parts, tmp_path / "run", init="pretrained"))
    with pytest.raises(UserError, match="another network"):
        other.load_newest()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--preset", "nosuch"),
        ("--preset", "stickers"),
        ("--resume", "/nonexistent"),
        ("--preset", "demo", "teacher=/nonexistent"),
        ("--preset", "demo", "nosuch=1"),
        ("--preset", "smoke", "data=/nonexistent", "run_dir=RUN"),
    ],
)
def test_the_command_ends_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.replace("RUN", str(tmp_path / "run")) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert not any("Traceback" in line for line in lines)


def test_every_setting_is_documented() -> None:
    """Each field of Config stands on a line with a comment, or its name and choices say all there is."""
    source = (Path(__file__).parent.parent / "train" / "config.py").read_text()
    self_evident = {
        "max_steps",
        "seed",
        "log_every",
        "run_dir",
        "text_dropout",
        "loss",
        "distillation_weight",
        "adversarial_weight",
        "mid_block",
        "features",
        "conditioning",
        "r1_weight",
        "discriminator_updates",
        "lr",
        "lr_discriminator",
        "warmup",
        "ema",
        "grad_clip",
        "precision",
        "gradient_checkpointing",
        "compile",
    }
    for field in dataclasses.fields(Config):
        line = next(line for line in source.splitlines() if line.startswith(f"    {field.name}: "))
        assert field.name in self_evident or "#" in line, field.name
