"""The ADD loop on a tiny teacher: known bugs, bit-exact resume, settings, the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.train_fixtures import make_data, make_teacher
from train.config import Config, from_json, make_config, to_json
from train.errors import UserError
from train.loop import AddTrainer, checkpoint_folders


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("parts")
    return {"teacher": str(make_teacher(folder)), "data": str(make_data(folder / "data"))}


def config(parts: dict[str, str], run_dir: Path, **changes: Any) -> Config:
    base = Config(run_dir=str(run_dir), layers=(1, 1, 1), max_steps=4, batch=8, adversarial_batch=8, save_every=2,
                  log_every=1, lr=1e-3, **parts)
    return dataclasses.replace(base, **changes)


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return {f"{name}.{key}": value for name in ("student", "ema", "heads", "optimizer", "optimizer_d")
            for key, value in load_file(folder / f"{name}.safetensors").items()}


def test_a_resumed_run_is_bit_identical(parts: dict[str, str], tmp_path: Path) -> None:
    whole = config(parts, tmp_path / "whole")
    AddTrainer(whole).run()
    stopped = config(parts, tmp_path / "stopped")
    trainer = AddTrainer(stopped)
    trainer.run_dir.mkdir(exist_ok=True)
    for _ in range(2):
        trainer.train_step()
    trainer.save()
    trainer.train_step()  # lost with the process
    AddTrainer(stopped).run()
    one, other = weights(tmp_path / "whole", 4), weights(tmp_path / "stopped", 4)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_half_written_checkpoints_are_passed_by(parts: dict[str, str], tmp_path: Path) -> None:
    AddTrainer(config(parts, tmp_path / "run")).run()
    newest = checkpoint_folders(tmp_path / "run")[-1]
    torn = newest.with_name("step-9")
    shutil.copytree(newest, torn)
    (torn / "state.json").unlink()
    assert checkpoint_folders(tmp_path / "run")[-1] == newest


def test_a_run_folder_holds_what_the_contract_names(parts: dict[str, str], tmp_path: Path) -> None:
    settings = config(parts, tmp_path / "run")
    target = AddTrainer(settings).run()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"loss_d", "loss_adv", "loss_distill", "r1", "d_real", "d_fake", "grad_norm"} <= rows[-1].keys()
    assert from_json((tmp_path / "run/config.json").read_text()) == settings
    assert (tmp_path / "run/samples/step-000004.png").is_file()
    assert list((tmp_path / "run").glob("events.*"))
    pipeline = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a disc", num_inference_steps=1, guidance_scale=0.0).images[0]
    assert image.size == (64, 64)


def test_the_pipeline_holds_the_averaged_student_not_the_last(parts: dict[str, str], tmp_path: Path) -> None:
    trainer = AddTrainer(config(parts, tmp_path / "run", ema=0.5, lr=0.1))
    target = trainer.run()
    saved = StableDiffusionPipeline.from_pretrained(target, safety_checker=None).unet.conv_in.weight
    torch.testing.assert_close(saved, trainer.ema.averaged.conv_in.weight, atol=1e-3, rtol=1e-3)
    assert (saved - trainer.student.conv_in.weight).abs().max() > 1e-3


def test_the_students_step_leaves_no_gradient_in_the_discriminator(parts: dict[str, str], tmp_path: Path) -> None:
    trainer = AddTrainer(config(parts, tmp_path / "run"))
    before = [p.clone() for p in trainer.discriminator.trainable_parameters()]
    import numpy as np

    batch = trainer._draw(np.random.default_rng(0), 8)
    measured = trainer._update_student(batch)
    assert measured["grad_norm"] > 0
    heads = trainer.discriminator.trainable_parameters()
    assert all(p.grad is None for p in heads)
    assert all(torch.equal(p, q) for p, q in zip(heads, before, strict=True))
    assert all(p.requires_grad for p in heads)


def test_the_teacher_sees_the_students_picture_not_the_real_one(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = AddTrainer(config(parts, tmp_path / "run", adversarial_weight=0.0))
    seen: list[torch.Tensor] = []
    noised = trainer.levels.noised
    monkeypatch.setattr(
        trainer.levels, "noised", lambda x0, eps, t: seen.append(x0.detach().clone()) or noised(x0, eps, t)
    )
    import numpy as np

    batch = trainer._draw(np.random.default_rng(0), 8)
    x0_hat = trainer._student_x0(batch)
    seen.clear()
    trainer._distillation_term(batch, x0_hat, trainer.decode(x0_hat))
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], x0_hat.detach())
    assert not torch.allclose(seen[0], batch.x0)


@pytest.mark.parametrize(("loss", "missing"), [("adv", "loss_distill"), ("distill", "loss_adv")])
def test_each_loss_can_be_switched_off(parts: dict[str, str], tmp_path: Path, loss: str, missing: str) -> None:
    measured = AddTrainer(config(parts, tmp_path / "run", loss=loss)).train_step()
    assert missing not in measured
    assert measured["grad_norm"] > 0


@pytest.mark.parametrize("init", ["pruned", "pretrained", "random"])
def test_each_start(parts: dict[str, str], tmp_path: Path, init: str) -> None:
    trainer = AddTrainer(config(parts, tmp_path / "run", init=init))
    same = torch.equal(trainer.student.conv_in.weight, trainer.teacher.conv_in.weight)
    assert same == (init != "random")


def test_the_real_decoder_can_be_used_for_the_pictures(parts: dict[str, str], tmp_path: Path) -> None:
    measured = AddTrainer(config(parts, tmp_path / "run", decoder="vae")).train_step()
    assert measured["grad_norm"] > 0


@pytest.mark.parametrize(
    "override", ["nosuch=1", "batch", "batch=many", "loss=gan", "batch=0", "adversarial_batch=64", "noise_levels=999"]
)
def test_bad_settings_name_what_is_allowed(override: str) -> None:
    with pytest.raises(UserError):
        make_config("demo", [override])


def test_settings_survive_json() -> None:
    settings = make_config("sticker", ["layers=1,1", "mid_block=false", "lr=5e-5", "max_steps=7"])
    assert settings.layers == (1, 1) and settings.mid_block is False and settings.lr == 5e-5
    assert from_json(to_json(settings)) == settings
    with pytest.raises(UserError, match="config.json"):
        from_json('{"surprise": 1}')


@pytest.mark.parametrize(
    "arguments",
    [("--preset", "nosuch"), ("--resume", "/nonexistent"), ("--preset", "demo", "teacher=/nonexistent"),
     ("--preset", "demo", "nosuch=1")],
)
def test_the_command_ends_in_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "train", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert "Traceback" not in done.stderr
