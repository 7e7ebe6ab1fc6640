"""The doctor on runs that were made to fail, one way each, and on one that is well."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import UserError
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.config import Config, to_json
from train.doctor import CHECKS, Finding, diagnose
from train.run.add_task import AddTrainer
from train.run.curves import draw_curves


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


def run(parts: Parts, run_dir: Path, prepare: Any = lambda trainer: None, **changes: Any) -> dict[str, Finding]:
    """Findings by name of a real run with these settings."""
    settings: dict[str, Any] = {"max_steps": 16, "save_every": 16, "warmup": 0, "decay_from": 1.0, "grad_clip": 1e4}
    trainer = AddTrainer(add_config(parts, run_dir, **(settings | changes)))
    prepare(trainer)
    trainer.run()
    return {finding.name: finding for finding in diagnose(run_dir)}


def test_a_dead_discriminator(parts: Parts, tmp_path: Path) -> None:
    findings = run(parts, tmp_path / "run", lr_discriminator=0.0)
    assert "dead discriminator" in findings
    assert "loss_d 2.0" in findings["dead discriminator"].evidence
    assert "lr_discriminator" in findings["dead discriminator"].advice


def test_a_winning_discriminator(parts: Parts, tmp_path: Path) -> None:
    findings = run(
        parts,
        tmp_path / "run",
        lr=0.0,
        lr_discriminator=1e-2,
        discriminator_updates=4,
        r1_weight=0.0,
        augment=False,
        conditioning="none",
        max_steps=48,
        save_every=48,
        discriminator_start=48,
    )
    assert "winning discriminator" in findings
    assert "%" in findings["winning discriminator"].evidence


def test_collapse(parts: Parts, tmp_path: Path) -> None:
    """A student that is drawn to one picture, whatever it is asked for."""

    def one_picture_for_all(trainer: AddTrainer) -> None:
        target = trainer.task.add_step.guide.target
        trainer.task.add_step.guide.target = (  # type: ignore[method-assign]
            lambda x0_hat, text, draws: torch.zeros_like(target(x0_hat, text, draws))
        )

    findings = run(
        parts,
        tmp_path / "run",
        one_picture_for_all,
        lr=0.003,
        space="latent",
        weighting="uniform",
        loss="distill",
        noise_levels=(999,),
        max_steps=40,
        save_every=40,
    )
    assert "collapse" in findings
    assert "times as much as real ones" in findings["collapse"].evidence


def test_a_diverging_average(parts: Parts, tmp_path: Path) -> None:
    """An average that is kept and never updated, while the weights move on."""

    def standing_still(trainer: AddTrainer) -> None:
        trainer.task.ema.update = lambda network, updates: None  # type: ignore[method-assign]

    findings = run(parts, tmp_path / "run", standing_still, lr=0.02, loss="distill")
    assert "diverging EMA" in findings
    assert "%" in findings["diverging EMA"].evidence


def test_stalled_data(parts: Parts, tmp_path: Path) -> None:
    def slow(trainer: AddTrainer) -> None:
        take, left_at = trainer.task.add_step.source.take, [time.monotonic()]

        def take_slowly(*arguments: Any) -> Any:
            """Twice as long as the rest of a step takes, however slow the machine is."""
            time.sleep(max(1.0, 2 * (time.monotonic() - left_at[0])))
            taken = take(*arguments)
            left_at[0] = time.monotonic()
            return taken

        trainer.task.add_step.source.take = take_slowly  # type: ignore[assignment, method-assign]

    findings = run(parts, tmp_path / "run", slow, max_steps=5)
    assert "stalled data" in findings
    assert "%" in findings["stalled data"].evidence


def test_values_that_are_not_finite(parts: Parts, tmp_path: Path) -> None:
    def one_nan(trainer: AddTrainer) -> None:
        output = trainer.task.add_step._x0_hat
        left = [1]

        def x0_hat(batch: Any, network: Any) -> torch.Tensor:
            if trainer.step == 5 and left:
                left.pop()
                return output(batch, network) * float("nan")
            return output(batch, network)

        trainer.task.add_step._x0_hat = x0_hat  # type: ignore[method-assign]

    findings = run(parts, tmp_path / "run", one_nan)
    assert "at steps 5" in findings["not finite"].evidence


def test_a_drowned_term(parts: Parts, tmp_path: Path) -> None:
    findings = run(parts, tmp_path / "run", adversarial_weight=1e-6)
    assert "adversarial term drowned" in findings


def test_a_clip_that_rules(parts: Parts, tmp_path: Path) -> None:
    assert "gradient above the clip" in run(parts, tmp_path / "run", grad_clip=1e-6)


# ---- made-up rows: a healthy run, and each check by itself -----------------------------------------------------

HEALTHY = {
    "diversity": 0.8,
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
    assert diagnose(written(tmp_path / "run", rows)) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"diversity": 0.05}, "collapse"),
        ({"diversity": 1.6}, "noisy student"),
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
    ill = [{"step": step, **HEALTHY, **change} for step in range(11, 31)]
    findings = diagnose(written(tmp_path / "run", healthy + ill))
    assert [finding.name for finding in findings] == [name]
    assert all(finding.evidence and finding.advice for finding in findings)


def test_no_two_checks_are_the_same() -> None:
    assert len(set(CHECKS)) == len(CHECKS) == 9


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
