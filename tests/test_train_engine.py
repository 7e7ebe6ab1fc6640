"""Two processes take the same steps as one at the same global batch; accumulation changes nothing; FSDP saves whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import UserError
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.add.draws import adversarial_rows
from train.config import Config, to_json
from train.run.add_task import AddTrainer
from train.run.build import check_seen
from train.run.engine import Engine, settled

STEPS = 3
LAUNCH = [
    sys.executable,
    "-W",
    "ignore",
    "-m",
    "accelerate.commands.launch",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--num_machines",
    "1",
    "--main_process_port",
    "0",
    "--num_processes",
    "2",
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def alone(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after some steps of one process; everything in fp32, so that only the order of sums differs."""
    return run_here(settings(parts, tmp_path_factory.mktemp("runs") / "one"))


def settings(parts: Parts, run_dir: Path, **changes: object) -> Config:
    fixed: dict[str, object] = {"max_steps": STEPS, "save_every": STEPS, "batch": 16, "precision": "fp32", "lr": 1e-3}
    return add_config(parts, run_dir, **(fixed | changes))


def run_here(config: Config) -> Path:
    AddTrainer(config).run()
    return Path(config.run_dir)


def launch(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(to_json(config))
    command = [*LAUNCH, *arguments, "-m", "train", "--resume", str(run_dir)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=one_thread)


def weights(run_dir: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return {
        f"{name}.{key}": value
        for name in ("student", "ema", "heads")
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def distance(run_dir: Path, other: Path) -> float:
    """How far apart two runs ended, as a share of the way that the first one went. Sums in another order give 1e-3."""
    begin, one, two = weights(run_dir, 0), weights(run_dir), weights(other)
    assert begin.keys() == one.keys() == two.keys()
    apart = torch.stack([(one[name] - two[name]).norm() for name in one]).norm()
    gone = torch.stack([(one[name] - begin[name]).norm() for name in one]).norm()
    return float(apart / gone)


def test_two_processes_are_one(parts: Parts, alone: Path, tmp_path: Path) -> None:
    done = launch(settings(parts, tmp_path / "two"), "--multi_gpu")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "two/checkpoints" / f"step-{STEPS}" / "state.json").read_text())
    assert facts["processes"] == 2
    assert distance(alone, tmp_path / "two") < 0.01


def test_accumulation_is_one_large_batch(parts: Parts, alone: Path, tmp_path: Path) -> None:
    assert distance(alone, run_here(settings(parts, tmp_path / "parts", micro_batch=8))) < 0.01


def test_the_comparison_sees_another_batch(parts: Parts, alone: Path, tmp_path: Path) -> None:
    assert distance(alone, run_here(settings(parts, tmp_path / "other", seed=1))) > 0.1


@pytest.mark.slow
def test_more_processes_than_shards(parts: Parts, tmp_path: Path) -> None:
    done = launch(settings(parts, tmp_path / "run", streaming="true"), "--multi_gpu")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert lines and all("more processes (2) than shards (1)" in line for line in lines[:1])


def test_gradient_checkpointing_changes_nothing(parts: Parts, alone: Path, tmp_path: Path) -> None:
    assert distance(alone, run_here(settings(parts, tmp_path / "run", gradient_checkpointing=True))) < 0.01


@pytest.mark.slow
def test_fsdp_is_one(parts: Parts, alone: Path, tmp_path: Path) -> None:
    done = launch(settings(parts, tmp_path / "fsdp"), "--use_fsdp", "--fsdp_version", "2")
    assert done.returncode == 0, done.stderr
    assert distance(alone, tmp_path / "fsdp") < 0.01


@pytest.mark.slow
def test_a_compiled_student_takes_the_same_steps_or_is_refused(parts: Parts, alone: Path, tmp_path: Path) -> None:
    """torch 2.13 on this CPU compiles the tiny U-Net's backward pass wrongly: then no step may be taken."""
    try:
        run_dir = run_here(settings(parts, tmp_path / "compiled", compile=True))
    except UserError as error:
        assert "torch.compile computes different gradients" in str(error)
        assert not list((tmp_path / "compiled").glob("checkpoints/step-*"))
    else:
        assert distance(alone, run_dir) < 0.01


def test_a_batch_that_cannot_be_dealt_is_refused(parts: Parts, tmp_path: Path) -> None:
    engine = Engine(settings(parts, tmp_path / "run", micro_batch=4))
    assert list(engine.micro_rows()) == [slice(i, i + 4) for i in range(0, 16, 4)]
    with pytest.raises(UserError, match="multiple of"):
        Engine(settings(parts, tmp_path / "run", micro_batch=5))


def dealt(config: Config) -> None:
    check_seen(config, Engine(config))


def test_micro_batches_that_show_the_discriminator_nothing_are_refused(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="adversarial_batch=2 cannot be dealt to 8 micro-batches"):
        dealt(settings(parts, tmp_path / "run", micro_batch=2, adversarial_batch=2))
    dealt(settings(parts, tmp_path / "run", micro_batch=4))
    assert "the result depends on micro_batch" in caplog.text


@pytest.mark.slow
def test_two_accumulating_processes_are_one(parts: Parts, tmp_path: Path) -> None:
    """Two processes with two micro-batches each are one process with four."""
    done = launch(settings(parts, tmp_path / "two", micro_batch=8, batch=32), "--multi_gpu")
    assert done.returncode == 0, done.stderr
    whole = run_here(settings(parts, tmp_path / "one", micro_batch=8, batch=32))
    assert distance(whole, tmp_path / "two") < 0.01


def test_what_the_discriminator_sees_does_not_depend_on_the_dealing() -> None:
    assert adversarial_rows(24, 12).sum() == 12
    assert adversarial_rows(24, 0).all()
    assert adversarial_rows(24, 12)[:12].sum() == 6


@pytest.mark.parametrize(("processor", "chosen"), [("Genoa avx2 avx512_bf16", "bf16"), ("Milan avx2", "fp32")])
def test_auto_is_bf16_only_where_the_processor_computes_in_it(
    processor: str, chosen: str, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.diffusion.cpu_name", lambda: processor)
    asked = settings(parts, tmp_path, precision="auto", device="cpu")
    assert settled(asked).precision == chosen
    assert Engine(asked).bf16 == (chosen == "bf16")
    assert settled(settings(parts, tmp_path, precision="bf16", device="cpu")).precision == "bf16"
