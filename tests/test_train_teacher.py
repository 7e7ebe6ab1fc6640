"""train.teacher: where it starts from, and how many of its pictures are compositions."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderTiny

from runtime.errors import UserError
from tests.support.tiny import SMALL, make_checkpoint
from tests.support.train_fixtures import make_data, make_teacher, picture, png
from train.checkpoint import load_part
from train.data.corpus import Corpus, share_compositions
from train.data.shards import Record, write_shard
from train.diffusion import NoiseLevels
from train.run.telemetry import read_rows
from train.student import blocks_of
from train.teacher import build_unet, checked, main, parser, start_unet
from train.teacher_task import x0_loss


def test_a_teacher_without_attention_keeps_every_other_weight(tmp_path: Path) -> None:
    unet = build_unet(4, 8, 16, widths=(16, 32), layers=(1, 2), attention=(False, True), time_width=32)
    unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    whole, bare = (start_unet(str(tmp_path), no_attention) for no_attention in (False, True))
    assert blocks_of(bare) == blocks_of(whole)
    kept, all_weights = bare.state_dict(), whole.state_dict()
    assert all(torch.equal(weight, all_weights[name]) for name, weight in kept.items())
    left_out = set(all_weights) - set(kept)
    assert left_out and all(".attentions." in name and not name.startswith("mid_block") for name in left_out)
    assert bare(torch.zeros(1, 4, 8, 8), 999, torch.zeros(1, 77, 16)).sample.shape == (1, 4, 8, 8)


def test_a_student_to_be_is_the_teachers_own_weights(tmp_path: Path) -> None:
    unet = build_unet(4, 8, 16, widths=(16, 32), layers=(1, 2), attention=(False, False), time_width=32)
    unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    student = start_unet(str(tmp_path), student="base")
    assert blocks_of(student) == (1, 1) and blocks_of(unet) == (1, 2)
    assert torch.equal(student.conv_in.weight, unet.conv_in.weight)


class Perfect(torch.nn.Module):
    """Knows the picture: v of x0 for whatever it is given, which it keeps."""

    def __init__(self, x0: torch.Tensor) -> None:
        super().__init__()
        self.x0, self.levels = x0, NoiseLevels()

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> SimpleNamespace:
        self.seen = x
        alpha, sigma = self.levels.at(timesteps)
        return SimpleNamespace(sample=(alpha * x - self.x0) / sigma)


def test_a_student_to_be_learns_from_noise_alone_at_the_last_timestep() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn((2, 2, 4, 4, 4), generator=generator)
    timesteps, text, network = torch.tensor([999, 300]), torch.zeros(2, 77, 4), Perfect(x0)
    assert float(x0_loss(network, NoiseLevels(), x0, eps, timesteps, text)) < 1e-9
    assert torch.equal(network.seen[0], eps[0])
    assert torch.allclose(network.seen[1], NoiseLevels().noised(x0, eps, timesteps)[1])
    assert float(x0_loss(network, NoiseLevels(), x0 + 1, eps, timesteps, text)) == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_teacher_draws_the_share_of_compositions_it_is_told(share: float) -> None:
    records = [Record(str(index), ("x",), 2.0) for index in range(5)]
    shards = [0, 0, 1, 2, 3]  # the last two are of the composed split
    corpus = Corpus(records, torch.zeros(5, 1, 1, 1), [[0]] * 5, torch.zeros(1, 77, 4), torch.zeros(1, 4), shards)
    for first in (0, 4):
        with pytest.raises(UserError, match="the data needs both composed and other pictures"):
            share_compositions(corpus, first, share)
    share_compositions(corpus, 2, share)
    weights = [record.weight for record in corpus.records]
    assert weights[:3] == [2.0, 2.0, 2.0]
    assert sum(weights[3:]) / sum(weights) == pytest.approx(share)


# ---- the command --------------------------------------------------------------------------------------------------

NEEDED = ["--data", "d", "--vae", "v", "--text", "t", "--out", "o"]


def parse(*arguments: str) -> argparse.Namespace:
    """The command's arguments, checked and completed."""
    return checked(parser().parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--student tiny", "--student needs --start"),
        ("--no-attention", "--no-attention needs --start"),
        ("--start x --student tiny --shared 0.3", "with --student leave it out"),
        ("--compositions 1", "--compositions 1: must lie in 0..0.99"),
        ("--compositions -0.1", "--compositions -0.1"),
        ("--drop-text 1.5", "--drop-text 1.5: must lie in 0..1"),
        ("--last nan", "--last nan"),
        ("--power 0", "--power 0"),
        ("--batch 0", "--batch 0: must lie in 1.."),
        ("--max-steps 0", "--max-steps 0"),
        ("--lr -1", "--lr -1"),
        ("--log-every 0", "--log-every 0"),
        ("--save-every 0", "--save-every 0"),
        ("--seed -1", "--seed -1"),
        ("--shared 2", "--shared 2"),
        ("--ema 1.1", "--ema 1.1"),
        ("--sample-steps 0", "--sample-steps 0"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(arguments: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(*NEEDED, *arguments.split())


@pytest.mark.parametrize("arguments", ["--student tny", "--student custom"])
def test_a_student_without_a_name_is_none(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEEDED, "--start", "x", *arguments.split()]) == 2
    assert "invalid choice" in capsys.readouterr().err


def test_a_student_shares_nothing_and_a_teacher_does() -> None:
    assert parse(*NEEDED).shared == 0.3
    assert parse(*NEEDED, "--start", "x", "--student", "tiny").shared == 0
    assert parse(*NEEDED, "--start", "x", "--student", "tiny", "--shared", "0").shared == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher in teacher/, data with a composed split in data/, another model in other/."""
    path = tmp_path_factory.mktemp("teacher")
    make_teacher(path)
    make_data(path / "data")
    record = Record("composed", ("a disc",))
    write_shard(path / "data/composed-00000.tar", [(record, png(picture("gray", "disc")))])
    make_data(path / "plain")
    make_checkpoint(path / "other", SMALL)
    return path


def command(folder: Path, out: Path, **changes: str) -> list[str]:
    """A run of two steps."""
    given = {
        "data": str(folder / "data"),
        "vae": str(folder / "teacher/vae"),
        "text": str(folder / "teacher"),
        "out": str(out),
        "start": str(folder / "teacher"),
        "batch": "2",
        "max-steps": "2",
        "sample-steps": "1",
    }
    return [part for key, value in (given | changes).items() for part in (f"--{key}", value)]


def test_a_student_is_trained_and_resumed_and_no_other_takes_its_place(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(folder, tmp_path, student="tiny", compositions="0.5")) == 0
    out, err = capsys.readouterr()
    assert "tiny: 0." in err and out.endswith(f"{tmp_path / 'pipeline'}\n")
    student = start_unet(str(tmp_path / "pipeline"))
    assert blocks_of(student) == (1, 1) and student.mid_block is None
    assert main(command(folder, tmp_path, student="tiny", compositions="0.5", **{"max-steps": "3"})) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 3]
    assert "step 3/3 loss" in capsys.readouterr().err
    assert main(command(folder, tmp_path, student="base", **{"max-steps": "4"})) == 2
    assert "step-3 is of another network than these settings make; choose another folder" in capsys.readouterr().err


def test_a_students_latents_are_found_among_its_teachers(folder: Path, tmp_path: Path) -> None:
    vae = load_part(AutoencoderTiny, folder / "teacher/vae", dtype=torch.float32)
    for weight in vae.parameters():  # of a training in fp32: the pipeline holds it rounded
        weight.data.mul_(1.0001)
    vae.save_pretrained(tmp_path / "vae")
    assert main(command(folder, tmp_path / "one", student="tiny", vae=str(tmp_path / "vae"))) == 0
    (tmp_path / "two").mkdir()
    (tmp_path / "two/cache").symlink_to(tmp_path / "one/cache")
    before = sorted((tmp_path / "one/cache").iterdir())
    assert main(command(folder, tmp_path / "two", student="tiny", vae=str(tmp_path / "one/pipeline/vae"))) == 0
    assert sorted((tmp_path / "one/cache").iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vae": "runs/nothing"}, "runs/nothing: cannot be opened as AutoencoderTiny"),
        ({"text": "runs/nothing"}, "runs/nothing/text_encoder: cannot be opened as CLIPTextModel"),
        ({"start": "nothing"}, "nothing: no diffusers pipeline there"),
        ({"text": "FOLDER/other"}, "text width 16, and --vae and --text give 32"),
        ({"data": "FOLDER/plain", "compositions": "0.2"}, "no composed-"),
        ({"data": "FOLDER"}, "no train-"),
    ],
)
def test_a_run_that_cannot_be_is_one_error(
    folder: Path, tmp_path: Path, changes: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {key: value.replace("FOLDER", str(folder)) for key, value in changes.items()}
    assert main(command(folder, tmp_path, student="tiny", **changes)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert not (tmp_path / "pipeline").exists()
