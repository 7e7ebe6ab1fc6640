"""ADD, teacher, autoencoder and text encoder are trained by one loop: what is true of one is true of all four."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from runtime.errors import UserError
from tests.support.toy_runs import STEPS, TOYS, networks, run_and_die, toy_trainer
from tests.support.train_fixtures import Parts, make_parts
from train.finite import NotFinite
from train.run.checkpoints import Checkpoints, file_hash
from train.run.engine import Engine, choose_device, choose_precision
from train.run.loop import Trainer, start
from train.run.telemetry import read_rows

every_task = pytest.mark.parametrize("name", TOYS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def uninterrupted(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole run of every task."""
    folder = tmp_path_factory.mktemp("whole")
    for name in TOYS:
        toy_trainer(name, parts, folder / name).run()
    return {name: folder / name for name in TOYS}


def hashes(run_dir: Path) -> dict[str, str]:
    """Of the last checkpoint's files of tensors: weights, averages, optimizers' moments."""
    return {path.name: file_hash(path) for path in (run_dir / f"checkpoints/step-{STEPS}").glob("*.safetensors")}


# ---- interruptions ---------------------------------------------------------------------------------------------


@every_task
def test_a_run_that_is_told_to_stop_goes_on_bit_for_bit(
    name: str, parts: Parts, uninterrupted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = toy_trainer(name, parts, tmp_path, save_every=STEPS)
    step = trainer.task.step

    def step_with_a_signal(number: int) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(number)

    trainer.task.step = step_with_a_signal  # type: ignore[assignment, method-assign]
    with pytest.raises(SystemExit) as end:
        trainer.run()
    assert end.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "stopped by SIGTERM: step 3 is saved" in said and trainer.task.go_on in said
    assert Checkpoints(tmp_path, 3).steps() == [0, 3]
    toy_trainer(name, parts, tmp_path, save_every=STEPS).run()
    assert hashes(tmp_path) == hashes(uninterrupted[name])
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if "lr" in row] == list(range(1, STEPS + 1))


# ADD's own is in tests/test_train_resume.py, with more kills: here it is run by `make test-slow`.
@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one == "ADD" else one for one in TOYS])
def test_a_run_that_is_killed_goes_on_bit_for_bit(
    name: str, parts: Parts, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    """Once at a random moment, once within a checkpoint of which half is written."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.support.toy_runs"])
    for where in ("anywhere", "checkpoint"):
        process = server.Process(target=run_and_die, args=(name, parts, tmp_path, where, random.getrandbits(32)))
        process.start()
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL
    assert list((tmp_path / "checkpoints").glob(".*"))
    trainer = toy_trainer(name, parts, tmp_path)
    trainer.run()
    assert hashes(tmp_path) == hashes(uninterrupted[name])
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]


# ---- what a run leaves -----------------------------------------------------------------------------------------


@every_task
def test_a_checkpoint_is_safetensors_and_json(name: str, uninterrupted: dict[str, Path]) -> None:
    folder = uninterrupted[name] / "checkpoints" / f"step-{STEPS}"
    facts = json.loads((folder / "state.json").read_text())
    tensors = {path.name for path in folder.iterdir()} - {"state.json"}
    assert tensors == set(facts["sha256"]) and "optimizer.safetensors" in tensors
    assert all(path.endswith(".safetensors") and load_file(folder / path) for path in tensors)
    assert (facts["step"], facts["seed"], facts["processes"], facts["passed_by"]) == (STEPS, 0, 1, [])
    moments = load_file(folder / "optimizer.safetensors")
    assert {key.partition(".")[2] for key in moments} == {"step", "exp_avg", "exp_avg_sq"}
    before = json.loads((folder.parent / f"step-{STEPS - 1}" / "state.json").read_text())["sha256"]
    still = {file for file, digest in before.items() if digest == facts["sha256"][file]}
    assert still == ({"decoder.safetensors"} if name == "ADD" else set())  # fitted once


@every_task
def test_a_run_folder_has_settings_rows_and_events(name: str, uninterrupted: dict[str, Path]) -> None:
    run_dir = uninterrupted[name]
    settings = json.loads((run_dir / "config.json").read_text())
    assert (settings["max_steps"], settings["device"], settings["precision"]) == (
        STEPS,
        "cpu",
        choose_precision("auto", "cpu"),
    )
    rows = read_rows(run_dir / "metrics.jsonl")
    last = [row for row in rows if "lr" in row][-1]
    assert last["step"] == STEPS and last["grad_norm"] > 0 and any(key.endswith("_per_s") for key in last)
    assert list(run_dir.glob("events.*"))


def test_a_checkpoint_has_the_score_that_its_task_gave(uninterrupted: dict[str, Path]) -> None:
    for name, key in (("autoencoder", "held_out_psnr_db"), ("text encoder", "validation_cosine")):
        run_dir = uninterrupted[name]
        facts = json.loads((run_dir / f"checkpoints/step-{STEPS}/state.json").read_text())
        assert facts["score"] == -[row[key] for row in read_rows(run_dir / "metrics.jsonl") if key in row][-1]
        assert json.loads((run_dir / "checkpoints/best.json").read_text())["step"] in Checkpoints(run_dir, 3).steps()


# ---- what goes wrong -------------------------------------------------------------------------------------------


@every_task
def test_a_bad_step_is_gone_back_from_and_passed_by(name: str, parts: Parts, tmp_path: Path) -> None:
    trainer = toy_trainer(name, parts, tmp_path, max_steps=4)
    for parameter in next(iter(trainer.task.optimizers.values())).param_groups[0]["params"]:
        parameter.register_hook(lambda gradient: gradient * float("nan") if trainer.step == 2 else gradient)
    trainer.run()
    assert trainer.passed_by == [2] and trainer.step == 4
    events = [row for row in read_rows(tmp_path / "metrics.jsonl") if "event" in row]
    assert [(row["event"], row["step"], row["back_to"]) for row in events] == [("not_finite", 2, 2)]
    newest = Checkpoints(tmp_path, 3).newest()
    assert newest is not None and newest.step == 4 and newest.facts["passed_by"] == [2]
    assert all(value.isfinite().all() for tensors in newest.tensors.values() for value in tensors.values())


@every_task
def test_a_run_that_fails_everywhere_ends(name: str, parts: Parts, tmp_path: Path) -> None:
    trainer = toy_trainer(name, parts, tmp_path, nan_limit=1)

    def fail(step: int) -> Any:
        raise NotFinite("the loss is nan")

    trainer.task.step = fail  # type: ignore[method-assign]
    with pytest.raises(UserError, match="step 1: the loss is nan, and the run went back 1 times already"):
        trainer.run()


@every_task
def test_a_checkpoint_of_another_network_is_refused(name: str, parts: Parts, tmp_path: Path) -> None:
    trainer = toy_trainer(name, parts, tmp_path)
    trainer.save()
    file = tmp_path / "checkpoints/step-0/state.json"
    facts = json.loads(file.read_text())
    weights = next(iter(trainer.task.weights))
    facts["sha256"] = {key: value for key, value in facts["sha256"].items() if key != f"{weights}.safetensors"}
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="step-0 is of another network than these settings make"):
        toy_trainer(name, parts, tmp_path).run()


@every_task
def test_a_state_of_the_old_format_is_not_started_over(name: str, parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.json").write_text('{"step": 400, "rows": []}')
    with pytest.raises(UserError, match=r"state is a training state in the format of addkit 0\.1") as error:
        toy_trainer(name, parts, tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_more_processes_than_a_task_knows_of(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TOYS["teacher"].settings(parts, tmp_path)
    init = Engine.__init__

    def one_of_two(engine: Engine, given: Any) -> None:
        init(engine, given)
        engine.world = 2

    monkeypatch.setattr(Engine, "__init__", one_of_two)
    with pytest.raises(UserError, match="runs in one process: start it without accelerate launch"):
        start(settings)


# ---- precision and device --------------------------------------------------------------------------------------


def computed_in(trainer: Trainer) -> dict[str, set[torch.dtype]]:
    """The types of what every network's layers of weights give, while a step is taken and a checkpoint kept."""
    seen: dict[str, set[torch.dtype]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.setdefault(name, set()).add(output.dtype)

        module.register_forward_hook(note)

    for name, network in networks(trainer.task).items():
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                watch(name, module)
    trainer.run()
    return seen


@every_task
def test_single_precision_means_no_bf16_anywhere(name: str, parts: Parts, tmp_path: Path) -> None:
    single = computed_in(toy_trainer(name, parts, tmp_path / "fp32", max_steps=1, precision="fp32"))
    assert single and set().union(*single.values()) == {torch.float32}
    half = computed_in(toy_trainer(name, parts, tmp_path / "bf16", max_steps=1, precision="bf16"))
    assert half.keys() == single.keys() and torch.bfloat16 in set().union(*half.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_task
def test_on_a_gpu_every_network_computes_there(name: str, parts: Parts, tmp_path: Path) -> None:
    trainer = toy_trainer(name, parts, tmp_path, device="cuda", max_steps=2)
    trainer.run()
    found = networks(trainer.task)
    assert found and all(p.is_cuda for network in found.values() for p in network.parameters())


@pytest.mark.parametrize("name", ["teacher", "autoencoder", "text encoder"])
def test_a_device_reaches_weights_and_batches(
    name: str, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: on torch's meta device, which computes no number. What is seen beforehand is encoded elsewhere."""
    monkeypatch.setattr("train.autoencoder.encode_all", lambda vae, pictures: torch.zeros(len(pictures), 8, 4, 4))
    settings = TOYS[name].settings(parts, tmp_path, precision="fp32")
    on_meta = start(settings)
    on_meta.device = torch.device("meta")
    task = TOYS[name].task(parts, settings, on_meta)
    seen: set[str] = set()
    trained = next(iter(task.weights.values()))
    assert isinstance(trained, nn.Module)
    for network in networks(task).values():
        assert all(p.device.type == "meta" for p in network.parameters())

    def note(module: nn.Module, inputs: Any, options: Any, output: Any) -> None:
        given = [x for x in [*inputs, *options.values(), output] if isinstance(x, torch.Tensor)]
        seen.update(tensor.device.type for tensor in given)

    for module in trained.modules():
        module.register_forward_hook(note, with_kwargs=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="item.*meta"):  # the loss's finiteness is unknown
        task.step(0)
    assert seen == {"meta"} and any(p.grad is not None for p in trained.parameters())


@pytest.mark.parametrize(
    ("setting", "has_gpu", "chosen"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_gpu_is_taken_where_there_is_one(
    setting: str, has_gpu: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert choose_device(setting) == chosen


def test_a_gpu_that_is_not_there_is_one_line(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device cuda: torch finds no CUDA GPU on this machine; use auto or cpu"):
        start(TOYS["autoencoder"].settings(parts, tmp_path, device="cuda"))
