"""Pairs of noise and teacher's picture: made, read, and learned from beside a batch; and the switches of the game."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.noise import randn
from tests.support.mistakes import refused
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.add.draws import update_rng
from train.add.feature_networks import PictureFeatures
from train.add.losses import adversarial_loss_d, adversarial_loss_g
from train.checkpoint import load_pipeline
from train.config import check
from train.data.cache import read_tensors
from train.data.pairs import Pairs, part_path
from train.pairs import FIRST_SEED, main
from train.run.add_task import AddTrainer


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


def arguments(parts: Parts, out: Path, **more: Any) -> list[str]:
    said = {"teacher": parts["teacher"], "data": parts["data"], "out": out, "n": 6, "steps": 3} | more
    return [word for name, value in said.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def pairs(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    with pytest.MonkeyPatch.context() as patch:  # in fp32 everywhere, as the reference is
        patch.setattr("train.pairs.computes_in_bf16", lambda device: False)
        assert main(arguments(parts, folder)) == 0
    return folder


def trainer(parts: Parts, folder: Path, **changes: Any) -> AddTrainer:
    return AddTrainer(add_config(parts, folder, **changes))


# ---- made and read --------------------------------------------------------------------------------------------------


def test_a_pair_is_what_diffusers_makes_of_that_noise(parts: Parts, pairs: Path, tmp_path: Path) -> None:
    tensors, facts = read_tensors(part_path(pairs, 0)) or ({}, {})
    assert tensors["seeds"].tolist() == [*range(FIRST_SEED, FIRST_SEED + 6)]
    pipe = load_pipeline(parts["teacher"])
    for row in (0, 5):
        latents = torch.from_numpy(randn(FIRST_SEED + row, (1, 4, 8, 8)))
        made = pipe(
            facts["captions"][row], latents=latents, num_inference_steps=3, guidance_scale=2.0, output_type="latent"
        ).images
        # They are stored in half precision.
        torch.testing.assert_close(tensors["latents"][row].float(), made[0], atol=5e-3, rtol=0)


def test_a_run_that_was_stopped_goes_on_and_other_settings_are_refused(
    parts: Parts, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for module in ("train.data.pairs", "train.pairs"):
        monkeypatch.setattr(f"{module}.PART", 2)
    out = tmp_path / "out"
    assert main(arguments(parts, out)) == 0
    kept = {part: part_path(out, part).stat().st_ino for part in (0, 2)}
    before, facts = read_tensors(part_path(out, 1)) or ({}, {})
    part_path(out, 1).unlink()
    assert main(arguments(parts, out)) == 0
    assert {part: part_path(out, part).stat().st_ino for part in kept} == kept
    after, again = read_tensors(part_path(out, 1)) or ({}, {})
    assert again == facts and len(facts["captions"]) == 2
    assert all(torch.equal(after[name], before[name]) for name in ("latents", "seeds"))
    capsys.readouterr()
    assert "pairs of other settings" in refused(capsys, main, *arguments(parts, out, steps=4))
    assert "pairs of other settings" in refused(capsys, main, *arguments(parts, out, n=4))  # a last part is short


def test_what_does_not_fit_is_one_line(parts: Parts, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pairs there; python -m train\.pairs makes them"):
        trainer(parts, tmp_path / "a", pairs=str(tmp_path), pair_batch=2)
    with pytest.raises(UserError, match="pairs and pair_batch go together"):
        check(add_config(parts, tmp_path / "b", pairs=str(pairs)))
    with pytest.raises(UserError, match="cannot be dealt to 2 micro-batches"):
        trainer(parts, tmp_path / "c", pairs=str(pairs), pair_batch=3, micro_batch=4)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    part_path(damaged, 0).write_bytes(part_path(pairs, 0).read_bytes()[:-7])
    with pytest.raises(UserError, match="damaged files of pairs"):
        trainer(parts, tmp_path / "d", pairs=str(damaged), pair_batch=2)


# ---- learned from ---------------------------------------------------------------------------------------------------


def test_pairs_add_their_error_and_change_nothing_else(parts: Parts, pairs: Path, tmp_path: Path) -> None:
    plain = trainer(parts, tmp_path / "plain").task.add_step
    beside = trainer(parts, tmp_path / "beside", pairs=str(pairs), pair_batch=4, regression_weight=3.0).task.add_step
    (one,), (two,) = plain._batches(0, 0), beside._batches(0, 0)
    assert one.pairs is None and two.pairs is not None and torch.equal(one.x0, two.x0)
    fakes, more = plain._fakes(one), beside._fakes(two)
    torch.testing.assert_close(more.own, fakes.own, atol=1e-5, rtol=1e-4)
    values = [dict(step._terms(0, batch, made)) for step, batch, made in ((plain, one, fakes), (beside, two, more))]
    assert values[1].keys() - values[0].keys() == {"pair"}
    for name, term in values[0].items():
        torch.testing.assert_close(values[1][name], term, atol=1e-4, rtol=1e-3)
    assert isinstance(beside.pairs, Pairs)
    drawn = more.x0_hat[len(two.x0) :].detach()
    timesteps = torch.full((4,), 999)
    with torch.no_grad():
        output = beside.student(two.pairs.noise, timesteps, two.pairs.text).sample
    torch.testing.assert_close(drawn, beside.levels.x0(two.pairs.noise, output, timesteps), atol=1e-5, rtol=1e-4)
    wanted = 3 * (drawn - two.pairs.latents).square().mean()
    torch.testing.assert_close(values[1]["pair"].detach(), wanted)


def test_a_student_learns_its_pairs(parts: Parts, pairs: Path, tmp_path: Path) -> None:
    run = trainer(parts, tmp_path / "run", pairs=str(pairs), pair_batch=6, regression_weight=30.0, max_steps=25)
    losses = [float(run.train_step()["loss_pair"]) for _ in range(25)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_a_run_may_begin_with_pairs_alone(parts: Parts, pairs: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"pairs": str(pairs), "pair_batch": 4, "pairs_first": 2}
    run, halves = (trainer(parts, tmp_path / str(m), micro_batch=m, **changes) for m in (0, 4))
    heads = [weight.clone() for weight in run.task.add_step.discriminator.heads.parameters()]
    step = run.task.add_step
    assert step.pairs is not None
    rows = step.pairs.take(12, slice(0, 12), update_rng(step.config, 0, 0))  # in place of 8 pictures and 4 pairs
    with torch.no_grad():
        output = run.task.add_step.student(rows.noise, torch.full((12,), 999), rows.text).sample
    drawn = run.task.add_step.levels.x0(rows.noise, output, torch.full((12,), 999))
    measured, same = run.train_step(), halves.train_step()
    assert float(measured["loss_pair"]) == pytest.approx(float((drawn - rows.latents).square().mean()), rel=1e-4)
    for name in ("loss_pair", "grad_norm"):
        assert float(same[name]) == pytest.approx(float(measured[name]), rel=1e-4)
    assert "loss_adv" not in run.train_step()
    assert all(
        torch.equal(a, b) for a, b in zip(heads, run.task.add_step.discriminator.heads.parameters(), strict=True)
    )
    assert {"loss_adv", "loss_distill", "loss_pair"} <= run.train_step().keys()
    with pytest.raises(UserError, match="pairs_first=2 needs pairs and pair_batch"):
        check(add_config(parts, tmp_path / "none", pairs_first=2))


def test_micro_batches_take_the_whole_batchs_pairs(parts: Parts, pairs: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"pairs": str(pairs), "pair_batch": 4, "adversarial_batch": 8}
    whole = trainer(parts, tmp_path / "whole", **changes).task.add_step._batches(0, 0)
    halves = trainer(parts, tmp_path / "halves", micro_batch=4, **changes).task.add_step._batches(0, 0)
    taken = [batch.pairs for batch in (*whole, *halves)]
    assert all(pair is not None for pair in taken)
    assert torch.equal(taken[0].noise, torch.cat([taken[1].noise, taken[2].noise]))  # type: ignore[union-attr]


# ---- the game -------------------------------------------------------------------------------------------------------


def test_the_relativistic_losses() -> None:
    real, fake = [torch.tensor([[1.0, 0.0]])], [torch.tensor([[-1.0, 2.0]])]
    softplus = torch.nn.functional.softplus
    wanted = softplus(torch.tensor([-2.0, 2.0])).mean()
    torch.testing.assert_close(adversarial_loss_d(real, fake, "relativistic"), wanted)
    torch.testing.assert_close(adversarial_loss_g(fake, real), softplus(torch.tensor([2.0, -2.0])).mean())


def test_a_relativistic_run_with_r2_learns(parts: Parts, tmp_path: Path) -> None:
    run = trainer(parts, tmp_path / "run", adversarial="relativistic", r1_weight=1e-4, r2_weight=1e-4)
    measured = run.train_step()
    assert float(measured["r2"]) > 0 and np.isfinite(float(measured["loss_adv"]))
    assert float(measured["loss_d"]) == pytest.approx(np.log(2), abs=0.5)  # of heads that cannot tell yet


def test_the_balance_sets_the_adversarial_gradients_size(parts: Parts, tmp_path: Path) -> None:
    step = trainer(parts, tmp_path / "run", adversarial_balance=0.25).task.add_step
    (batch,) = step._batches(0, 0)
    fakes = step._fakes(batch)
    terms = {
        name: torch.autograd.grad(term, fakes.leaf, retain_graph=True)[0] for name, term in step._terms(0, batch, fakes)
    }
    total, _ = step._term_gradients(0, batch, fakes)
    adversarial = total - terms["distill"]
    assert float(adversarial.norm() / terms["distill"].norm()) == pytest.approx(0.25, rel=1e-3)
    cosine = torch.nn.functional.cosine_similarity(adversarial.flatten(), terms["adv"].flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("loss", ["adv", "both"])
def test_pairs_and_distillation_together_are_the_measure(parts: Parts, pairs: Path, tmp_path: Path, loss: str) -> None:
    changes: dict[str, Any] = {"loss": loss, "pairs": str(pairs), "pair_batch": 4, "adversarial_balance": 2.0}
    step = trainer(parts, tmp_path / "run", **changes).task.add_step
    (batch,) = step._batches(0, 0)
    fakes = step._fakes(batch)
    others = torch.zeros_like(fakes.leaf)
    for name, term in step._terms(0, batch, fakes):
        if name != "adv":
            others += torch.autograd.grad(term, fakes.leaf, retain_graph=True)[0]
    total, _ = step._term_gradients(0, batch, fakes)
    assert float((total - others).norm()) == pytest.approx(2 * float(others.norm()), rel=1e-3)


def test_features_see_pictures_at_their_side() -> None:
    seen: list[torch.Size] = []

    def network(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append(x.shape)
        return [x.flatten(2)]

    picture = torch.rand(2, 3, 32, 32)
    for side, shape in ((0, 32), (64, 64), (32, 32)):
        PictureFeatures(network, (3,), augment=False, side=side).embed(picture, torch.empty(0))
        assert seen.pop()[2:] == (shape, shape)


def test_the_new_settings_are_checked(parts: Parts, tmp_path: Path) -> None:
    base = add_config(parts, tmp_path)
    for change in ({"adversarial": "wgan"}, {"r2_weight": -1.0}, {"adversarial_balance": float("nan")}):
        with pytest.raises(UserError):
            check(replace(base, **change))
