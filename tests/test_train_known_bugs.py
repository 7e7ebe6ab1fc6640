"""Bugs that ADD trainers are known for. Each check passes on the trainer as it is and fails with the bug."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.train_fixtures import Parts, add_config, make_parts
from train.add.losses import r1_penalty
from train.add.step import AddStep, frozen
from train.run.add_task import AddTrainer
from train.run.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def trainer(parts: Parts, tmp_path: Path) -> AddTrainer:
    return AddTrainer(add_config(parts, tmp_path / "run"))


# ---- re-noising the real x0 instead of the student's -----------------------------------------------------------


def teacher_sees_the_students_picture(step: AddStep) -> None:
    (batch,) = step._batches(0, 0)
    fakes = step._fakes(batch)
    seen: list[torch.Tensor] = []
    noised = step.levels.noised
    step.levels.noised = lambda x0, eps, t: seen.append(x0.detach().clone()) or noised(x0, eps, t)  # type: ignore
    step.distillation_term(batch, fakes)
    assert torch.equal(seen[0], fakes.leaf.detach())


def test_renoising_the_real_picture(trainer: AddTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    step = trainer.task.add_step
    teacher_sees_the_students_picture(step)
    target = step.guide.target
    (batch,) = step._batches(0, 0)
    monkeypatch.setattr(step.guide, "target", lambda x0_hat, text, draws: target(batch.x0, text, draws))
    with pytest.raises(AssertionError):
        teacher_sees_the_students_picture(step)


# ---- the student's update leaves gradients in the discriminator ------------------------------------------------


def students_update_leaves_the_heads_alone(step: AddStep) -> None:
    step.discriminator.zero_grad(set_to_none=True)
    batches = step._batches(0, 0)
    before = [p.clone() for p in step.discriminator.heads.parameters()]
    measured = step._update_student(0, batches)
    assert measured["grad_norm"] > 0 and measured["grad_adv"] > 0
    heads = list(step.discriminator.heads.parameters())
    assert all(p.grad is None for p in heads)
    assert all(torch.equal(p, q) for p, q in zip(heads, before, strict=True))
    assert all(p.requires_grad for p in heads)


def test_gradients_left_in_the_discriminator(trainer: AddTrainer) -> None:
    step = trainer.task.add_step
    students_update_leaves_the_heads_alone(step)

    def terms_with_the_bug(number: int, batch: Any, fakes: Any) -> Any:
        logits = step.discriminator(fakes.features, fakes.condition)
        loss = -logits[0].mean()
        loss.backward(retain_graph=True)  # also reaches the heads
        yield "adv", loss

    step._terms = terms_with_the_bug  # type: ignore[assignment, method-assign]
    with pytest.raises(AssertionError):
        students_update_leaves_the_heads_alone(step)


def test_frozen_heads_still_pass_gradients_on(trainer: AddTrainer) -> None:
    step = trainer.task.add_step
    (batch,) = step._batches(0, 0)
    fakes = step._fakes(batch)
    with frozen(step.discriminator.heads):
        logits = step.discriminator(fakes.features, fakes.condition)
        (gradient,) = torch.autograd.grad(torch.stack([x.mean() for x in logits]).sum(), fakes.leaf)
    assert gradient.abs().sum() > 0


# ---- R1 on features that do not require gradients --------------------------------------------------------------


def real_features_require_gradients(step: AddStep) -> None:
    (batch,) = step._batches(0, 0)
    features = step._observe_real(batch)
    assert all(f.requires_grad and f.is_leaf for f in features)
    fakes = step._fakes(batch, with_graph=False)
    penalty = r1_penalty(step.discriminator(features, fakes.condition), features)
    penalty.backward()
    assert float(penalty.detach()) > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in step.discriminator.heads.parameters())


def test_r1_on_features_without_gradients(trainer: AddTrainer) -> None:
    step = trainer.task.add_step
    real_features_require_gradients(step)
    observe = step._observe_real
    step._observe_real = lambda batch: [f.detach() for f in observe(batch)]  # type: ignore[method-assign]
    with pytest.raises((AssertionError, RuntimeError)):
        real_features_require_gradients(step)


# ---- a resume that drops the discriminator, or its optimizer ---------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """Three steps in one go, and the folder of a run that was saved after two of them and left."""

    whole: dict[str, Any]
    folder: Path
    parts: Parts


@pytest.fixture(scope="module")
def cut(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Cut:
    folder = tmp_path_factory.mktemp("resume")
    whole, first = (AddTrainer(add_config(parts, folder / name)) for name in ("whole", "cut"))
    for _ in range(3):
        whole.train_step()
    for _ in range(2):
        first.train_step()
    first.save()
    return Cut(whole._state().tensors, folder / "cut", parts)


def resumed_run_takes_the_same_steps(cut: Cut, run_dir: Path, change: Callable[[AddTrainer], None]) -> None:
    """The third step by a new process's trainer: the same weights."""
    shutil.copytree(cut.folder, run_dir)
    second = AddTrainer(add_config(cut.parts, run_dir))
    assert second.load_newest()
    change(second)
    second.train_step()
    found = second._state().tensors
    for name, tensors in cut.whole.items():
        for key, value in tensors.items():
            assert torch.equal(value, found[name][key]), f"{name}: {key}"


def forget_heads(trainer: AddTrainer) -> None:
    for parameter in trainer.task.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)


BUGS: dict[str, Callable[[AddTrainer], None]] = {
    "discriminator": forget_heads,
    "optimizer of the discriminator": lambda trainer: trainer.task.add_step.optimizer_d.state.clear(),
    "optimizer of the student": lambda trainer: trainer.task.add_step.optimizer.state.clear(),
    "average": lambda trainer: trainer.task.ema.load_state_dict(
        {k: v * 0 for k, v in trainer.task.ema.weights.items()}
    ),
    "step": lambda trainer: setattr(trainer, "step", 0),
}


def test_a_resume_that_forgets_nothing(cut: Cut, tmp_path: Path) -> None:
    resumed_run_takes_the_same_steps(cut, tmp_path / "run", lambda trainer: None)


@pytest.mark.parametrize("bug", BUGS)
def test_a_resume_that_forgets(cut: Cut, tmp_path: Path, bug: str) -> None:
    with pytest.raises(AssertionError):
        resumed_run_takes_the_same_steps(cut, tmp_path / "run", BUGS[bug])


# ---- an average that is kept and never used --------------------------------------------------------------------


def saved_student_is_the_average(trainer: AddTrainer) -> None:
    target = trainer.run()
    saved = load_file(target / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"].float()
    torch.testing.assert_close(saved, trainer.task.ema.weights["conv_in.weight"], atol=1e-3, rtol=1e-3)
    assert (saved - trainer.task.student.conv_in.weight).abs().max() > 1e-3


def test_an_average_that_is_never_used(parts: Parts, tmp_path: Path) -> None:
    saved_student_is_the_average(AddTrainer(add_config(parts, tmp_path / "run", ema=0.5, lr=0.1, max_steps=2)))
    broken = AddTrainer(add_config(parts, tmp_path / "broken", ema=0.5, lr=0.1, max_steps=2))
    kept = {name: value.clone() for name, value in broken.task.ema.weights.items()}
    update = broken.task.ema.update

    def update_with_the_bug(network: torch.nn.Module, updates: int) -> None:
        update(network, updates)
        broken.task.ema.load_state_dict({name: dict(network.named_parameters())[name].detach() for name in kept})

    broken.task.ema.update = update_with_the_bug  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        saved_student_is_the_average(broken)


def test_samples_are_drawn_by_the_average(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run"))
    before = trainer.task.draw(2)
    with torch.no_grad():
        for parameter in trainer.task.student.parameters():
            parameter.add_(0.5)
    assert torch.equal(trainer.task.draw(2), before)
    trainer.task.ema.load_state_dict({name: value + 0.5 for name, value in trainer.task.ema.weights.items()})
    assert not torch.equal(trainer.task.draw(2), before)


# ---- a trace of the real picture in what should be pure noise --------------------------------------------------


def test_at_the_noisiest_level_the_student_sees_noise_alone(trainer: AddTrainer) -> None:
    step = trainer.task.add_step
    (batch,) = step._batches(0, 0)
    seen = step.noised_input(batch.x0, batch.draws)
    last = batch.draws.timesteps == 999
    assert last.any() and not last.all()
    assert torch.equal(seen[last], batch.draws.noise[last])
    assert not torch.equal(seen[~last], batch.draws.noise[~last])


def test_checkpoints_of_a_run_are_listed_in_order(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=12, save_every=1, keep=2, score_pictures=0))
    trainer.step = 8  # from nine on: names that are sorted as text would put 10 before it
    trainer.run()
    assert Checkpoints(tmp_path / "run", 2).steps() == [11, 12]
    assert np.isfinite(trainer.task.draw(1).numpy()).all()
