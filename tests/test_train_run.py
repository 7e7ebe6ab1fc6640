"""What a run leaves behind, the smoke test as a command, the benchmark and the ablation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.support.mistakes import refused
from tests.support.train_fixtures import Parts, add_config, make_parts
from train.__main__ import main
from train.ablation.rows import ROWS
from train.ablation.stickers import summarise, table
from train.bench import __main__ as bench
from train.bench.run import compare
from train.config import Config, from_json
from train.presets import add
from train.run.add_task import AddTask, AddTrainer
from train.run.checkpoints import Checkpoints
from train.run.engine import settled
from train.run.telemetry import read_rows


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def finished(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The settings of a run that has ended."""
    settings = add_config(parts, tmp_path_factory.mktemp("finished") / "run", score_pictures=8)
    AddTrainer(settings).run()
    return settings


def test_a_run_folder_holds_what_the_contract_names(finished: Config) -> None:
    run_dir = Path(finished.run_dir)
    rows = read_rows(run_dir / "metrics.jsonl")
    logged = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in logged] == [1, 2, 3, 4]
    assert {
        "loss_d",
        "loss_adv",
        "loss_distill",
        "r1",
        "d_real",
        "d_fake",
        "d_accuracy_real",
        "d_accuracy_fake",
        "d_real/head0",
        "d_fake/head3",
        "grad_norm",
        "grad_norm_d",
        "grad_adv",
        "grad_distill",
        "grad_ratio",
        "ema_distance",
        "diversity",
        "lr",
        "pictures_per_s",
        "data_share",
    } <= logged[-1].keys()
    assert [row["step"] for row in rows if "score_kid_lite0" in row] == [0, 2, 4]
    assert from_json((run_dir / "config.json").read_text()) == settled(finished)
    with Image.open(run_dir / "samples/step-000004.png") as sheet:
        assert sheet.size == (8 * 68 + 4, 2 * 68 + 4)
    pipeline = StableDiffusionPipeline.from_pretrained(run_dir / "pipeline", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a disc", num_inference_steps=1, guidance_scale=0.0).images[0]
    assert image.size == (64, 64)
    facts = json.loads((run_dir / "pipeline/training.json").read_text())
    assert facts["settings"]["features"] == "mobilenet_v2" and facts["steps"] == 4
    assert str(run_dir.parent) not in json.dumps(facts)


def test_tensorboard_has_curves_and_pictures(finished: Config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(finished.run_dir, size_guidance={"images": 0})
    events.Reload()
    assert {"loss_d", "d_accuracy_fake", "d_real/head0", "grad_ratio"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [0, 2, 4]


def test_the_best_checkpoint_outlives_newer_ones(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = AddTrainer(add_config(parts, tmp_path / "run", max_steps=3, save_every=1, keep=1, score_pictures=8))
    scores = iter([0.9, 0.2, 0.7, 0.4])
    monkeypatch.setattr(AddTask, "_score", lambda self, pictures: next(scores))
    trainer.run()
    assert Checkpoints(tmp_path / "run", 1).steps() == [1, 3]


def test_rows_after_the_checkpoint_are_dropped_and_a_torn_line_is_no_harm(parts: Parts, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    AddTrainer(add_config(parts, run_dir, max_steps=1)).run()
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "loss_d": 9}\n{"step": 3, "los')
    AddTrainer(add_config(parts, run_dir, max_steps=3)).run()
    steps = [row["step"] for row in read_rows(run_dir / "metrics.jsonl") if "loss_d" in row]
    assert steps == [1, 2, 3]
    assert all(row.get("loss_d") != 9 for row in read_rows(run_dir / "metrics.jsonl"))


def test_smoke_is_a_command_that_ends_with_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "smoke", f"run_dir={tmp_path / 'run'}", "max_steps=2", "save_every=2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "run" / "pipeline")
    for said in ("teacher", "student", "parameters", "multiply-adds", "MB in fp16", "pictures/s", "min left"):
        assert said in printed.err
    assert (tmp_path / "run/pipeline/model_index.json").is_file()


# ---- the benchmark ---------------------------------------------------------------------------------------------


def test_the_naive_loop_takes_the_same_steps(parts: Parts, tmp_path: Path) -> None:
    """In one precision the two curves are the same to the rounding of cached latents: the same work is compared."""
    config = add_config(parts, tmp_path / "run", batch=8, precision="fp32", adversarial_batch=0)
    result = compare(config, turns=1, steps=3)
    assert set(result["loss_difference"]) == {"loss_d", "loss_adv", "loss_distill"}
    assert all(value < 0.03 for value in result["loss_difference"].values())  # cached latents are bf16
    assert len(result["losses"]["ours"]) == len(result["losses"]["naive"]) == 5
    assert {"data", "student", "teacher", "discriminator", "decoder"} <= set(result["seconds_per_step"])
    assert result["ratio"]["min"] > 0


def test_another_seed_would_be_seen(parts: Parts, tmp_path: Path) -> None:
    one = compare(add_config(parts, tmp_path / "a", precision="fp32"), turns=1, steps=1)["losses"]["naive"]
    two = compare(add_config(parts, tmp_path / "b", precision="fp32", seed=1), turns=1, steps=1)["losses"]["naive"]
    assert not np.allclose([row["loss_distill"] for row in one], [row["loss_distill"] for row in two], rtol=0.01)


def test_one_step_of_any_size_prints_time_and_memory(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        f"teacher={parts['teacher']}",
        f"data={parts['data']}",
        "attention=",
        "layers=1,1,1",
        "batch=2",
        "adversarial_batch=0",
    ]
    assert bench.main(["--once", "--preset", "demo", "--json", *settings]) == 0
    printed = capsys.readouterr()
    figures: dict[str, Any] = json.loads(printed.out)
    assert figures["seconds_per_step"] > 0 and figures["peak_rss_mb"] > 100 and figures["device"]
    assert "parameters" in printed.err and "multiply-adds" in printed.err


# ---- the ablation ----------------------------------------------------------------------------------------------


def figures(fd: float) -> dict[str, Any]:
    each = {
        "fd_lite0": fd,
        "kid_lite0": 0.1,
        "precision": 0.5,
        "recall": 0.5,
        "alignment": 0.3,
        "retrieval_at_1": 0.2,
        "vendi": 1.5,
    }
    return {"all": each, "held_out": each}


def test_the_table_shows_means_and_where_the_order_differs() -> None:
    runs = {"default": [10.0, 12.0], "loss=adv": [20.0, 20.0], "loss=distill": [15.0, 15.0]}
    results = {name: summarise([figures(value) for value in values]) for name, values in runs.items()}
    assert "| default | 2 | 11.0 (10.0 to 12.0)" in table(results) and "20.6 / 0.319" in table(results)
    line = table(results).splitlines()[-1]
    assert line == "loss: ours default < loss=distill < loss=adv; paper default < loss=adv < loss=distill"


def test_every_row_of_the_ablation_changes_what_it_says() -> None:
    import dataclasses

    base = add()
    for row in ROWS.values():
        changed = dataclasses.replace(base, **row.changes)
        different = {
            field.name
            for field in dataclasses.fields(base)
            if getattr(base, field.name) != getattr(changed, field.name)
        }
        assert different == row.changes.keys()


def test_an_unknown_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from train.ablation.__main__ import main as ablation

    assert "is not a row" in refused(capsys, ablation, "--out", tmp_path / "none", "--rows", "nosuch")
