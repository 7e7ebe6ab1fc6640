"""A run that is killed at any moment, asked to stop, or out of disk space resumes as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import UserError
from runtime.files import locked, whole_folder
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.__main__ import main
from train.config import to_json
from train.run.add_task import AddTrainer
from train.run.checkpoints import Checkpoints, State, file_hash

FILES = ("student", "ema", "heads", "optimizer", "optimizer_d")
STEPS = 12


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


def start(run_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "train", "--resume", str(run_dir)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def new_run(parts: Parts, run_dir: Path) -> Path:
    """A run folder with nothing but its settings, in which every step is saved."""
    run_dir.mkdir(parents=True)
    settings = add_config(parts, run_dir, max_steps=STEPS, save_every=1, keep=3, streaming="true", shuffle_shards=1)
    (run_dir / "config.json").write_text(to_json(settings))
    return run_dir


def hashes(run_dir: Path) -> dict[str, str]:
    folder = run_dir / "checkpoints" / f"step-{STEPS}"
    return {name: file_hash(folder / f"{name}.safetensors") for name in FILES}


def halfway_through_a_checkpoint(run_dir: Path) -> bool:
    """Some but not all of a checkpoint's files are there."""
    begun = list((run_dir / "checkpoints").glob(".step-*.addkit-*"))
    return any(list(folder.glob("*.safetensors")) and not (folder / "state.json").exists() for folder in begun)


def has_reached(checkpoints: Checkpoints, step: int, seconds_ago: float) -> bool:
    """A step was saved, and a little later than that."""
    if max(checkpoints.steps(), default=0) < step:
        return False
    time.sleep(seconds_ago)
    return True


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> bool:
    """SIGKILL at the given moment; False when the process had ended before."""
    while process.poll() is None:
        if moment():
            process.kill()
            process.wait()
            return True
        time.sleep(0.0005)
    return False


@pytest.fixture(scope="module")
def uninterrupted(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = new_run(parts, tmp_path_factory.mktemp("runs") / "whole")
    assert main(["--resume", str(run_dir)]) == 0
    return run_dir


@pytest.mark.slow
def test_sigkill_at_random_moments_and_within_a_checkpoint(parts: Parts, uninterrupted: Path, tmp_path: Path) -> None:
    run_dir = new_run(parts, tmp_path / "killed")
    checkpoints, dice = Checkpoints(run_dir, 3), random.Random(os.getpid())
    reached = 0
    for _ in range(2):
        reached += dice.randrange(1, 3)
        assert kill_when(start(run_dir), partial(has_reached, checkpoints, reached, dice.uniform(0, 0.2)))
        assert kill_when(start(run_dir), partial(halfway_through_a_checkpoint, run_dir))
        assert list(checkpoints.folder.glob(".step-*.addkit-*"))
        reached = max(checkpoints.steps())
    assert reached < STEPS
    process = start(run_dir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert hashes(run_dir) == hashes(uninterrupted)
    assert not list((run_dir / "checkpoints").glob(".*"))
    logged = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_sigterm_saves_and_says_so(parts: Parts, uninterrupted: Path, tmp_path: Path) -> None:
    run_dir = new_run(parts, tmp_path / "told")
    settings = add_config(parts, run_dir, max_steps=STEPS, save_every=STEPS, streaming="true", shuffle_shards=1)
    (run_dir / "config.json").write_text(to_json(settings))
    process = start(run_dir)
    while not (run_dir / "metrics.jsonl").is_file() or not (run_dir / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run was quicker than the signal")
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in errors and "--resume" in errors
    assert max(Checkpoints(run_dir, 3).steps()) > 0
    again = start(run_dir)
    again.communicate(timeout=300)
    assert hashes(run_dir) == hashes(uninterrupted)


def test_the_state_is_safetensors_and_json(parts: Parts, tmp_path: Path) -> None:
    AddTrainer(add_config(parts, tmp_path, max_steps=1, streaming="true", shuffle_shards=1)).run()
    folder = tmp_path / "checkpoints" / "step-1"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    facts = json.loads((folder / "state.json").read_text())
    assert facts["step"] == 1 and facts["data"][0]["offset"] >= 0
    assert load_file(folder / "optimizer.safetensors")


# ---- which checkpoint is gone back to --------------------------------------------------------------------------


def small_state(step: int) -> State:
    return State(step, {"student": {"w": torch.full((4,), float(step))}}, {"data": [{}]})


def test_the_newest_sound_checkpoint_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, keep=4)
    for step in (1, 2, 3, 4):
        checkpoints.save(small_state(step))
    damaged = tmp_path / "checkpoints" / "step-4" / "student.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    (tmp_path / "checkpoints" / "step-3" / "student.safetensors").unlink()
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 2
    assert caplog.text.count("damaged") == 2


def test_the_last_n_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in enumerate((0.5, 0.1, 0.4, 0.3, 0.2)):
        checkpoints.save(small_state(step), score)
    assert checkpoints.steps() == [1, 3, 4]
    assert checkpoints.best() == 1
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text()) == {"step": 1}


def test_damaged_later_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 9):
        checkpoints.save(small_state(step), 0.5)
        if step == 1:
            shutil.copytree(tmp_path / "checkpoints" / "step-1", tmp_path / "kept")
    (tmp_path / "checkpoints" / "step-9" / "student.safetensors").write_bytes(b"damaged")
    assert checkpoints.newest() is None
    checkpoints.save(small_state(3))
    assert checkpoints.steps() == [3] and checkpoints.best() == 3


def test_a_state_that_cannot_be_read_stops_no_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step, score in ((1, 0.1), (2, float("nan")), (3, 0.3)):
        checkpoints.save(small_state(step), score)
    (tmp_path / "checkpoints" / "step-1" / "state.json").write_text('{"step": 1, "sco')
    checkpoints.save(small_state(4), 0.4)
    assert checkpoints.best() == 3


@pytest.mark.slow
def test_a_moved_run_goes_on_where_it_is(parts: Parts, tmp_path: Path) -> None:
    new_run(parts, tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    process = start(tmp_path / "after")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert Checkpoints(tmp_path / "after", 3).steps()[-1] == STEPS
    assert not (tmp_path / "before").exists()


def test_two_processes_do_not_train_in_one_folder(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=1))
    with locked(tmp_path / "run" / ".lock", ""), pytest.raises(UserError, match="another process is training"):
        trainer.run()
    trainer.run()


def test_signals_are_given_back_and_a_second_one_does_not_wait(parts: Parts, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=2))
    trainer.run()
    assert signal.getsignal(signal.SIGTERM) == before
    trainer._on_signal(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        trainer._on_signal(signal.SIGINT, None)


def test_nothing_to_go_back_to(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, keep=2).newest() is None


def test_a_full_disk_in_the_middle_of_a_checkpoint(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run"))
    trainer.save()
    trainer.train_step()

    def no_space(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "optimizer" in str(path):
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(b"half")

    monkeypatch.setattr("train.run.checkpoints.save_file", no_space)
    with pytest.raises(UserError, match="step 1 could not be saved.*No space left.*the last good checkpoint is step 0"):
        trainer.save()
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()] == ["step-0"]
    newest = Checkpoints(tmp_path / "run", 2).newest()
    assert newest is not None and newest.step == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a file size limit")
def test_a_real_write_that_fails_leaves_nothing(parts: Parts, tmp_path: Path) -> None:
    """The kernel itself refuses to let a file grow, as it does on a full disk."""
    run_dir = new_run(parts, tmp_path / "run")
    command = f"ulimit -f 200; trap '' XFSZ; exec {sys.executable} -W ignore -m train --resume {run_dir}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert not list((run_dir / "checkpoints").glob("step-*"))


def test_a_folder_that_fails_halfway_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with whole_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(target) as folder:
        (folder / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# ---- values that are not finite --------------------------------------------------------------------------------


def poison(trainer: AddTrainer, failing: int, times: int) -> None:
    """The student's output is NaN at one step, the first `times` times that it is taken."""
    left = [times]
    output = trainer.task.add_step._x0_hat

    def x0_hat(batch: object, network: object, pairs: object) -> torch.Tensor:
        value = output(batch, network, pairs)  # type: ignore[arg-type]
        if trainer.step == failing and left[0]:
            left[0] -= 1
            return value * float("nan")
        return value

    trainer.task.add_step._x0_hat = x0_hat  # type: ignore[method-assign]


def test_a_nan_goes_back_to_the_last_good_state_and_says_so(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=6))
    poison(trainer, failing=3, times=1)
    trainer.run()
    assert "step 3" in capsys.readouterr().err
    assert trainer.step == 6 and trainer.passed_by == [3]
    saved = trainer._state().tensors.values()
    assert all(torch.isfinite(value).all() for tensors in saved for value in tensors.values())
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = [row["step"] for row in rows if "grad_norm" in row]
    assert measured == sorted(set(measured))
    events = [row for row in rows if "event" in row]
    assert [(row["event"], row["back_to"]) for row in events] == [("not_finite", 2)]
    resumed = AddTrainer(add_config(parts, tmp_path / "run", max_steps=6))
    assert resumed.load_newest() and resumed.passed_by == [3]


def test_a_run_that_is_nan_everywhere_ends_with_one_line(parts: Parts, tmp_path: Path) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=8, nan_limit=2))
    trainer.task.add_step._x0_hat = lambda batch, network, pairs: batch.x0 * float("nan")  # type: ignore
    with pytest.raises(UserError, match="went back 2 times"):
        trainer.run()
    newest = Checkpoints(tmp_path / "run", 2).newest()
    assert newest is not None
    assert all(torch.isfinite(value).all() for tensors in newest.tensors.values() for value in tensors.values())
