"""The release model's stages: their commands' arguments, what they need of each other, what travels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import UserError
from tests.support.world import prepared, small_world
from train.__main__ import parser as add_parser
from train.autoencoder import parser as decoder_parser
from train.presets import make_config
from train.sticker.release import ATTENTION, STAGES, Call, attends, main, parser, pieces_of
from train.teacher import parser as unet_parser

PARSERS = {"train.autoencoder": decoder_parser, "train.teacher": unet_parser, "train": add_parser}


def call(folder: Path, **changes: object) -> Call:
    args = parser().parse_args(["--stage", "practice", "--out", str(folder / "runs"), "--data", str(folder)])
    said = {name: getattr(args, name) for name in Call.__dataclass_fields__}
    return Call(**{**said, **changes})


def made(call: Call, stage: str, attention: bool = False) -> Path:
    """What a stage leaves, as far as other stages' arguments look at it."""
    unet = call.folder(stage) / "pipeline" / "unet"
    unet.mkdir(parents=True)
    kinds = ["DownBlock2D"] * 3
    if attention:
        kinds[ATTENTION] = "CrossAttnDownBlock2D"
    (unet / "config.json").write_text(json.dumps({"down_block_types": kinds}))
    return unet.parent


@pytest.mark.parametrize("stage", STAGES)
def test_each_stages_arguments_are_its_commands(stage: str, tmp_path: Path) -> None:
    there = call(tmp_path, minutes=3.5, device="cpu", workers=2, window=4, pool=64)
    for other in ("practice", "teacher"):
        made(there, other)
    command, arguments = STAGES[stage]
    args = PARSERS[command]().parse_args(arguments(there))
    if stage == "distillation":
        config = make_config(args.preset, args.overrides)
        assert config.teacher == str(there.folder("teacher") / "pipeline")
        assert config.init == str(there.folder("practice") / "pipeline")
        assert (config.minutes, config.batch, config.workers, config.window, config.pool) == (3.5, 24, 2, 4, 64)
        assert config.run_dir == str(there.folder(stage)) and config.data == str(tmp_path)
        return
    assert (args.minutes, args.out, args.data, args.device) == (3.5, there.folder(stage), tmp_path, "cpu")
    if command == "train.teacher":
        assert (args.workers, args.window, args.pool, args.attention) == (2, 4, 64, [ATTENTION])
        assert args.train_text == (stage == "practice")


def test_a_batch_is_the_recipes_unless_asked_for(tmp_path: Path) -> None:
    for size, expected in ((0, "48"), (7, "7")):
        arguments = STAGES["practice"][1](call(tmp_path, batch=size, device="cpu"))
        assert arguments[arguments.index("--batch") + 1] == expected


def test_a_shorter_average_may_be_asked_for(tmp_path: Path) -> None:
    for stage in ("practice", "teacher"):
        there = call(tmp_path / stage, ema=0.5)
        made(there, "practice")
        arguments = STAGES[stage][1](there)
        assert arguments[arguments.index("--ema") + 1] == "0.5"
    made(there, "teacher")
    assert "ema=0.5" in STAGES["distillation"][1](there)
    assert not any(argument.startswith("ema=") for argument in STAGES["distillation"][1](call(tmp_path / "teacher")))


def test_attention_is_added_once(tmp_path: Path) -> None:
    there = call(tmp_path)
    pipeline = made(there, "practice", attention=True)
    assert attends(pipeline)
    pipeline.rename(pipeline.parent / "start")  # as another machine finds it
    arguments = STAGES["practice"][1](there)
    assert "--attention" not in arguments
    assert arguments[arguments.index("--start") + 1] == str(there.folder("practice") / "start")


@pytest.mark.parametrize(("stage", "needed"), [("teacher", "practice"), ("distillation", "teacher")])
def test_what_a_stage_needs_is_asked_for(
    stage: str, needed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(small_world(), tmp_path / "world")
    code = main(["--stage", stage, "--out", str(tmp_path / "runs"), "--data", str(tmp_path / "world")])
    said = capsys.readouterr().err.strip()
    assert code == 2 and needed in said and "\n" not in said


def test_pieces_hold_everything_once_in_order(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}" for number in range(6)]
    for path, size in zip(files, (40, 50, 20, 100, 1, 1), strict=True):
        path.write_bytes(bytes(size))
    pieces = pieces_of(files, 100)
    assert pieces == [files[:2], files[2:3], files[3:4], files[4:]]
    with pytest.raises(UserError, match="a piece"):
        pieces_of(files, 99)


def test_what_travels_is_begun_with_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(small_world(), (tmp_path / "data/world"))
    made(call(tmp_path / "runs", out=Path("runs/release")), "practice")
    assert main(["--pieces", "out/pieces"]) == 0
    assert "piece-0" in capsys.readouterr().out
    found = {str(path.relative_to("out/pieces/piece-0")) for path in Path("out/pieces").rglob("*") if path.is_file()}
    world = {f"data/world/{path.name}" for path in Path("data/world").iterdir()}
    assert found == world | {"runs/release/practice/start/unet/config.json"}
    monkeypatch.chdir("out")
    assert main(["--pieces", "none"]) == 2
    assert "nothing to take along" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("--minutes", "0"), ("--pool", "7"), ("--window", "0"), ("--batch", "-1"), ("--ema", "2")]
)
def test_numbers_out_of_range_are_one_line(
    wrong: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--stage", "practice", "--out", str(tmp_path / "runs"), *wrong]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:") and wrong[0] in said and "\n" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_stages_run_one_after_another(tmp_path: Path) -> None:
    data = prepared(small_world(), tmp_path / "world")
    common = ["--data", str(data), "--out", str(tmp_path / "runs"), "--batch", "4", "--pool", "32", "--threads", "1"]
    for stage in STAGES:
        for _ in range(2):  # the second call goes on
            assert main(["--stage", stage, "--minutes", "0.01", "--device", "cpu", *common]) == 0
        result = tmp_path / "runs" / stage / ("vae" if stage == "autoencoder" else "pipeline")
        assert result.is_dir()
        steps = sorted(int(path.name[5:]) for path in (tmp_path / "runs" / stage / "checkpoints").glob("step-*"))
        assert steps[-1] > 1
    assert (tmp_path / "runs/distillation/pipeline/variation.json").is_file()
