"""train.evaluate with a world, from end to end on tiny networks, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from runtime.errors import UserError
from tests.support.mistakes import refused
from tests.support.train_fixtures import make_teacher
from tests.support.world import prepared, small_world
from train.evaluate.__main__ import main
from train.evaluate.distributions import run
from train.evaluate.distributions.plan import Plan
from train.world import questions

torch.set_num_threads(1)  # toy tensors: with more, threads mostly wait for one another
SMALL = Plan(prompts=3, each=8, repeats=2, training=16, training_each=3, held_out=4, teacher_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a world, and prompts of it."""
    made = tmp_path_factory.mktemp("evaluate")
    make_teacher(made)
    prepared(small_world(), made / "world")
    (made / "prompts.txt").write_text("an animal\na goose facing left\na pizza and a car\n")
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small pictures."""
    monkeypatch.setattr(run, "QUICK", SMALL)
    monkeypatch.setattr(questions, "WorldSource", partial(questions.WorldSource, side=32))


def arguments(folder: Path, *more: str | Path) -> list[str]:
    subject = folder / "teacher"
    parts = [subject, "--teacher", subject, "--data", folder / "world", "--text-embedder", "words", *more]
    return [str(part) for part in parts]


def figures_of(folder: Path, capsys: pytest.CaptureFixture[str], *more: str | Path) -> dict:
    assert main(arguments(folder, "--quick", "--json", "--prompts", folder / "prompts.txt", *more)) == 0
    said = capsys.readouterr()
    return json.loads(said.out) | {"told": said.err}


@pytest.mark.usefixtures("small")
def test_a_worlds_figures_and_its_sheet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = figures_of(folder, capsys, "--sheet", tmp_path / "sheet.png", "--out", tmp_path / "figures.json")
    assert "no table of variation: its prompts are completed by the data's" in figures.pop("told")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert figures["n"] == {"all": 24, "held_out": 4} and figures["completed"] and figures["repeats"] == 2
    for name in ("fd_lite0", "kid_mobilenet_v2"):
        assert set(figures[name]["all"]) == set(figures[name]["held_out"]) == {"real", "teacher_2", "student_1"}
    assert set(figures["vendi"]) == set(figures["copies"]) == set(figures["alignment"]) == set(figures["tv"])
    assert figures["drawn"]["real"] >= 0 and set(figures["intervals"]) == {"real", "student_1"}
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 24 * 32 and height > 3 * 32


@pytest.mark.usefixtures("small")
def test_plain_prompts_and_another_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = figures_of(folder, capsys, "--plain", "--seed", "1")
    assert not plain["completed"] and plain["seed"] == 1
    assert "student_1" not in plain["drawn"] and "real" in plain["drawn"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--n", "700"], "--n: 700 pictures are too few, 800 are needed"),
        (["--clip", "folder", "--within", "3"], "--clip, --within: not for a world"),
        (["--features", "mobilenet_v2"], "--features: not for a world"),
        (["--seed", "-1"], "--seed -1: 0 to"),
        (["--teacher-steps", "0"], "must be 1 to 1000"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    folder: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, main, *arguments(folder, *more))


def test_bad_data_are_one_clear_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\nquantum foam\n")
    given = arguments(folder, "--quick", "--prompts", tmp_path / "prompts.txt")
    assert "'quantum foam': the data have nothing that it names" in refused(capsys, main, *given)
    data = prepared(small_world(), tmp_path)
    given = arguments(folder, "--data", data)
    (data / "variation.json").unlink()
    assert "variation.json is missing" in refused(capsys, main, *given)
    (data / "dataset.json").write_text(json.dumps({"set": "world", "version": 0}))
    assert "was made by another version" in refused(capsys, main, *given)
    (data / "dataset.json").write_text(json.dumps({"set": "sticker"}))
    assert "--quick and --plain are for a folder made by" in refused(capsys, main, *given, "--plain")


def test_a_models_own_table_completes_its_prompts(folder: Path, tmp_path: Path) -> None:
    source = questions.WorldSource(folder / "world", 32)
    assert run.table_of(tmp_path, source) is source.table
    other = {**source.table.to_json(), "separator": "; "}
    (tmp_path / "variation.json").write_text(json.dumps(other))
    assert run.table_of(tmp_path, source).separator == "; "
    (tmp_path / "manifest.json").write_text(json.dumps({"variation": source.table.to_json()}))
    assert run.table_of(tmp_path, source).separator == ", "
    (tmp_path / "manifest.json").write_text(json.dumps({"variation": {"version": 9}}))
    with pytest.raises(UserError, match="holds no table of variation that can be read"):
        run.table_of(tmp_path, source)
