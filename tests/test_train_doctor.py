"""The doctor on two real runs that were made to fail, and on made-up curves, each with one illness."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import UserError
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.add.step import logit_facts
from train.config import Config, to_json
from train.doctor import CHECKS, Finding, diagnose
from train.run.add_task import AddTrainer
from train.run.curves import draw_curves


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


def run(parts: Parts, run_dir: Path, prepare: Callable[[AddTrainer], None], **changes: Any) -> dict[str, Finding]:
    """Findings by name of a real run with these settings."""
    settings: dict[str, Any] = {"max_steps": 4, "save_every": 4, "warmup": 0, "decay_from": 1.0}
    trainer = AddTrainer(add_config(parts, run_dir, **(settings | changes)))
    prepare(trainer)
    trainer.run()
    return {finding.name: finding for finding in diagnose(run_dir)}


def wait_for_data(trainer: AddTrainer) -> None:
    take, left_at = trainer.task.add_step.source.take, [time.monotonic()]

    def take_slowly(*arguments: Any) -> Any:
        """Twice as long as the rest of a step takes, however slow the machine is."""
        time.sleep(2 * (time.monotonic() - left_at[0]))
        taken = take(*arguments)
        left_at[0] = time.monotonic()
        return taken

    trainer.task.add_step.source.take = take_slowly  # type: ignore[assignment, method-assign]


def give_one_nan(trainer: AddTrainer) -> None:
    output = trainer.task.add_step._x0_hat
    left = [1]

    def x0_hat(batch: Any, network: Any, pairs: Any) -> torch.Tensor:
        if trainer.step == 2 and left:
            left.pop()
            return output(batch, network, pairs) * float("nan")
        return output(batch, network, pairs)

    trainer.task.add_step._x0_hat = x0_hat  # type: ignore[method-assign]


def test_a_run_with_five_illnesses(parts: Parts, tmp_path: Path) -> None:
    """A discriminator that does not learn, an adversarial term of a millionth, a clip too low, slow data, one NaN."""

    def prepare(trainer: AddTrainer) -> None:
        wait_for_data(trainer)
        give_one_nan(trainer)

    findings = run(
        parts, tmp_path / "run", prepare, lr_discriminator=0.0, adversarial_weight=1e-6, grad_clip=1e-6, max_steps=5
    )
    assert "loss_d 2.0" in findings["dead discriminator"].evidence
    assert "lr_discriminator" in findings["dead discriminator"].advice
    assert "adversarial term drowned" in findings
    assert "gradient above the clip" in findings
    assert "%" in findings["stalled data"].evidence
    assert "at steps 2" in findings["not finite"].evidence


def test_a_run_whose_pictures_are_one_and_whose_average_stands_still(parts: Parts, tmp_path: Path) -> None:
    def prepare(trainer: AddTrainer) -> None:
        output = trainer.task.add_step._x0_hat

        def one_picture_for_all(batch: Any, network: Any, pairs: Any) -> torch.Tensor:
            x0_hat = output(batch, network, pairs)
            return x0_hat.mean(0, keepdim=True).expand_as(x0_hat)

        trainer.task.add_step._x0_hat = one_picture_for_all  # type: ignore[method-assign]
        trainer.task.ema.update = lambda network, updates: None  # type: ignore[method-assign]

    findings = run(parts, tmp_path / "run", prepare, lr=0.05, loss="distill", grad_clip=1e4)
    assert "times as much as real ones" in findings["collapse"].evidence
    assert "%" in findings["diverging EMA"].evidence


def test_seeds_that_do_not_matter_are_told_from_a_teacher_that_draws_one_picture(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the probe of a real run, whose student gives the same picture for any noise."""
    from train.run import add_task

    def of_the_noise(network: Any, text: Any, no_text: Any, seeds: range, *more: Any) -> torch.Tensor:
        noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise) * share[network is trainer.task.student]

    trainer = AddTrainer(add_config(parts, tmp_path / "run"))
    monkeypatch.setattr(add_task, "sample", of_the_noise)
    share = {True: 0.01, False: 0.5}
    found = trainer.task.seed_spreads(teacher=True)
    assert found["seed_spread"] * 50 == pytest.approx(found["teacher_seed_spread"])
    rows = [{"step": step, **HEALTHY, **found} for step in range(4)]
    assert [one.name for one in diagnose(written(tmp_path / "ill", rows))] == [
        "seeds do not matter: the student draws the mean"
    ]
    share[False] = 0.01  # data in which a caption has one picture: nothing to blame the student for
    rows = [{"step": step, **HEALTHY, **trainer.task.seed_spreads(teacher=True)} for step in range(4)]
    assert diagnose(written(tmp_path / "one", rows)) == []


def test_logits_on_the_right_side_are_right() -> None:
    """What the check for a winning discriminator reads."""
    real, fake = [torch.tensor([2.0, 3.0, -1.0, 1.0])], [torch.tensor([-2.0, -3.0])]
    facts = {name: float(value) for name, value in logit_facts(real, fake).items()}
    assert (facts["d_accuracy_real"], facts["d_accuracy_fake"]) == (0.75, 1.0)
    assert (facts["d_real"], facts["d_fake"]) == (1.25, -2.5)


# ---- made-up rows: a healthy run, and each check by itself -----------------------------------------------------

HEALTHY = {
    "diversity": 0.8,
    "seed_spread": 0.5,
    "d_accuracy_real": 0.7,
    "d_accuracy_fake": 0.75,
    "loss_d": 1.4,
    "d_real": 0.4,
    "d_fake": -0.5,
    "ema_distance": 0.02,
    "data_share": 0.01,
    "grad_norm": 0.3,
    "grad_ratio": 1.2,
}


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(to_json(Config("teacher", "data")))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_healthy_run_has_no_findings(tmp_path: Path) -> None:
    rows = [{"step": step, **HEALTHY} for step in range(1, 21)]
    rows.insert(0, {"step": 0, "seed_spread": 0.1, "teacher_seed_spread": 0.8})
    assert diagnose(written(tmp_path / "run", rows)) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"diversity": 0.05}, "collapse"),
        ({"diversity": 1.6}, "noisy student"),
        ({"seed_spread": 0.1}, "seeds do not matter: the student draws the mean"),
        ({"d_accuracy_real": 0.99, "d_accuracy_fake": 0.99, "loss_d": 0.05}, "winning discriminator"),
        ({"d_real": 0.01, "d_fake": 0.0, "loss_d": 2.0}, "dead discriminator"),
        ({"ema_distance": 0.6}, "diverging EMA"),
        ({"data_share": 0.8}, "stalled data"),
        ({"grad_norm": 50.0}, "gradient above the clip"),
        ({"grad_ratio": 1e-4}, "adversarial term drowned"),
        ({"grad_ratio": 1e4}, "distillation term drowned"),
    ],
)
def test_one_illness_is_one_finding(tmp_path: Path, change: dict[str, float], name: str) -> None:
    healthy = [{"step": step, **HEALTHY} for step in range(1, 11)]
    healthy.insert(0, {"step": 0, "seed_spread": 0.5, "teacher_seed_spread": 0.8})
    ill = [{"step": step, **HEALTHY, **change} for step in range(11, 31)]
    findings = diagnose(written(tmp_path / "run", healthy + ill))
    assert [finding.name for finding in findings] == [name]
    assert all(finding.evidence and finding.advice for finding in findings)
    assert all("%" in finding.evidence for finding in findings if finding.name == "winning discriminator")


def test_no_two_checks_are_the_same() -> None:
    assert len(set(CHECKS)) == len(CHECKS) == 10


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run there"):
        diagnose(tmp_path)
    with pytest.raises(UserError, match="fewer than two"):
        diagnose(written(tmp_path / "run", []))


def test_the_command_prints_evidence_advice_and_curves(tmp_path: Path) -> None:
    rows = [{"step": step, **HEALTHY, "loss_d": 2.0, "d_real": 0.0, "d_fake": 0.0} for step in range(1, 21)]
    folder = written(tmp_path / "run", rows)
    command = [sys.executable, "-W", "ignore", "-m", "train.doctor", str(folder)]
    done = subprocess.run(
        [*command, "--plot", str(tmp_path / "curves.png")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "dead discriminator" in done.stdout and "evidence:" in done.stdout and "try:" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*command, "--json"], check=False, capture_output=True, text=True)
    assert [finding["name"] for finding in json.loads(done.stdout)["findings"]] == ["dead discriminator"]


def test_curves_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no logged steps"):
        draw_curves(written(tmp_path / "run", []), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
