"""The whole path for a user's own pictures, by the commands: import, autoencoder, teacher, student, export, picture."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime.__main__ as runtime_command
import train.__main__ as train_command
import train.autoencoder
import train.teacher
from tests.support.train_fixtures import COLOURS, picture
from train.data import __main__ as data_command
from train.folders import CHECKPOINTS
from train.prompts import read_prompts

TINY_TEACHER = functools.partial(
    train.teacher.build_unet, widths=(16, 32), layers=(1, 1), attention=(False, True), time_width=32
)


def own_pictures(folder: Path) -> Path:
    """24 drawn pictures with captions of their own, in a Hugging Face imagefolder."""
    (folder / "drawn").mkdir(parents=True)
    rows = []
    for index in range(24):
        colour, shape = COLOURS[index % 8], ("disc", "square", "disc")[index // 8]
        name = f"drawn/{index:02d}.png"
        picture(colour, shape, 72 - index).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": f"{colour} {shape}, number {index}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def run(command: Callable[[Sequence[str]], int | None], line: str, **paths: Path) -> None:
    """A command line in which each NAME of paths stands for that path; it must end well."""
    assert command([str(paths.get(word, word)) for word in line.split()]) in (0, None), line


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of own_pictures, nothing held out."""
    folder = tmp_path_factory.mktemp("own")
    pictures, data = own_pictures(folder / "pictures"), folder / "all"
    run(data_command.main, "import PICTURES --out DATA --size 64 --held-out 0", PICTURES=pictures, DATA=data)
    return data


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_picture_by_the_runtime(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import export.onnx.__main__ as onnx_command

    monkeypatch.setattr(train.teacher, "build_unet", TINY_TEACHER)
    names = ("data", "vae", "teacher", "student", "bundle")
    paths = {name.upper(): tmp_path / name for name in names} | {"TEXT": CHECKPOINTS / "sticker-128"}
    paths["PICTURES"] = own_pictures(tmp_path / "pictures")
    run(data_command.main, "import PICTURES --out DATA --size 64 --held-out 0.1", **paths)
    counts = json.loads((tmp_path / "data/dataset.json").read_text())["pictures"]
    assert counts == {"train": 22, "held_out": 2}
    run(
        train.autoencoder.main,
        "--data DATA --out VAE --latent-channels 4 --decoder-width 8 --max-steps 4 --batch 4 --crop 4 --eval-every 4",
        **paths,
    )
    paths["DECODER"] = tmp_path / "vae/vae"
    run(
        train.teacher.main,
        "--data DATA --vae DECODER --text TEXT --out TEACHER --max-steps 2 --batch 4 --shared 0 --sample-steps 2",
        **paths,
    )
    teacher = tmp_path / "teacher/pipeline"
    captions = {json.loads(line)["text"] for line in (paths["PICTURES"] / "metadata.jsonl").read_text().splitlines()}
    assert set(read_prompts(teacher / "prompts.txt")) <= captions
    settings = "batch=4 max_steps=2 save_every=2 layers=1,1 score_pictures=0 threads=1"
    places = f"teacher={teacher} data={tmp_path / 'data'} run_dir={tmp_path / 'student'}"
    run(train_command.main, f"--preset smoke {places} {settings}")
    student = tmp_path / "student/pipeline"
    assert set(read_prompts(student / "prompts.txt")) <= captions
    assert "data" not in json.loads((student / "training.json").read_text())  # it is not known whose pictures they are
    run(onnx_command.main, f"{student} --out BUNDLE", **paths)
    parity = json.loads((tmp_path / "bundle/manifest.json").read_text())["parity"]
    assert parity["prompts"] == "checkpoint" and parity["picture"]["status"] == "passed"
    capsys.readouterr()
    out = tmp_path / "picture.png"
    assert runtime_command.main(
        ["red disc, number 0", "--seed", "1", "--bundle", str(tmp_path / "bundle"), "-o", str(out)]
    ) in (0, None)
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (64, 64, 3) and pixels.std() > 0  # four steps teach a decoder little


def test_an_autoencoder_can_be_judged_by_training_pictures(imported: Path, tmp_path: Path, capsys: Any) -> None:
    assert not list(imported.glob("held_out-*"))
    run(
        train.autoencoder.main,
        "--data DATA --out VAE --latent-channels 4 --decoder-width 8 --max-steps 2 --batch 4 --crop 4 --eval-every 2",
        DATA=imported,
        VAE=tmp_path / "vae",
    )
    assert "nothing is held out" in capsys.readouterr().err
    assert (tmp_path / "vae/vae/config.json").is_file()


def test_a_missing_split_is_told_to_somebody_with_pictures_of_their_own(tmp_path: Path, capsys: Any) -> None:
    assert train.autoencoder.main(["--data", str(tmp_path), "--out", str(tmp_path / "vae")]) == 2
    error = capsys.readouterr().err
    assert f"python -m train.data import PICTURES --out {tmp_path}" in error and error.count("\n") == 1
