"""Making the world's folder: whole, goes on where it was stopped, and every way in which it cannot."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from runtime.errors import UserError
from tests.support.world import Squares, small_world
from train.data.__main__ import main
from train.world import avatars, prepare
from train.world.prepare import prepare_world, read_portraits, read_things
from train.world.sprites import StoredSprites, read_sprites

SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#d01818" d="M1 1h6v6H1z"/></svg>'


@dataclass(frozen=True)
class Drawn:
    """A drawing of the small world."""

    key: str

    def cutout(self, size: int) -> Image.Image:
        return Squares().art(self.key)


def in_this_process(work: Any, jobs: Sequence[Any]) -> Iterator[Any]:
    return map(work, jobs)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small world in the place of the packages' art, and squares in the place of Node's avatars."""
    world = small_world()
    keys = sorted({key for thing in world.things for key in thing.keys.values()})
    for name, value in {
        "fetch": lambda package: Path(),
        "load_emoji": lambda *folders: None,
        "drawings": lambda table: [Drawn(key) for key in (*keys, "not-in-the-world")],
        "things": lambda table, drawn: world.things,
        "portrait_svgs": lambda part: [SQUARE] * len(part),
        "in_processes": in_this_process,
        "SHARD": 16,
    }.items():
        monkeypatch.setattr(prepare, name, value)


def test_a_folder_holds_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "world"
    assert main(["world", "--out", str(out), "--portraits", "20", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((out / "dataset.json").read_text())
    assert (said["set"], said["portraits"], said["things"]) == ("world", 20, len(small_world().things))
    assert "MIT" in set(said["licences"].values())
    assert [thing.name for thing in read_things(out)] == [thing.name for thing in small_world().things]
    faces = read_portraits(out)
    assert len({face.key for face in faces}) == 20
    sprites = StoredSprites(out)
    assert {face.key for face in faces} <= set(sprites.pictures)
    assert len(sprites.pictures) == 20 + said["art"]
    assert "not-in-the-world" not in sprites.pictures


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    prepare_world(whole, portraits=40)
    drawn: Any = vars(prepare)["portrait_svgs"]
    calls: list[int] = []

    def interrupted(part: Sequence[Any]) -> list[str]:
        calls.append(len(part))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return drawn(part)

    monkeypatch.setattr(prepare, "portrait_svgs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_world(stopped, portraits=40)
    assert not (stopped / "dataset.json").exists()
    with pytest.raises(UserError, match="is missing: make it with"):
        read_things(stopped)
    prepare_world(stopped, portraits=40)
    assert calls == [16, 16, 16, 8]  # the first shard is not drawn again
    for path in whole.glob("*.tar"):
        assert list(read_sprites(path)) == list(read_sprites(stopped / path.name))
    assert (whole / "portraits.json").read_bytes() == (stopped / "portraits.json").read_bytes()


def test_two_worlds_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_world(tmp_path / "world", portraits=4)
    assert main(["world", "--out", str(tmp_path / "world"), "--portraits", "5"]) == 2
    assert "was begun with other settings" in one_line(capsys)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/train-00000.tar").write_bytes(b"")
    assert main(["world", "--out", str(tmp_path / "shards"), "--portraits", "5"]) == 2
    assert "holds other shards" in one_line(capsys)


def test_room_on_the_disk_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2**20))
    assert main(["world", "--out", str(tmp_path / "world"), "--portraits", "5000"]) == 2
    said = one_line(capsys)
    assert "MiB are needed there, 1 MiB are free" in said
    assert not list((tmp_path / "world").glob("*.tar"))


def test_a_disk_that_fills_up_loses_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write: Any = vars(prepare)["write_sprites"]

    def full(path: Path, pictures: Any) -> None:
        if path.name == "portraits-00001.tar":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, pictures)

    monkeypatch.setattr(prepare, "write_sprites", full)
    arguments = ["world", "--out", str(tmp_path / "world"), "--portraits", "20"]
    assert main(arguments) == 2
    assert "No space left" in one_line(capsys)
    assert not (tmp_path / "world/dataset.json").exists()
    monkeypatch.setattr(prepare, "write_sprites", write)
    assert main(arguments) == 0


def test_art_that_cannot_be_drawn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "in_processes", lambda work, jobs: ((job.key, None) for job in jobs))
    with pytest.raises(UserError, match=r"the drawing \S+ could not be made"):
        prepare_world(tmp_path / "world", portraits=4)


def test_node_that_is_missing_or_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatars, "fetch", lambda package: packed(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="node is not on the PATH: install"):
        avatars.draw_avatars([("micah", {})])
    (tmp_path / "node").write_text("#!/bin/sh\necho 'TypeError: not a style' >&2\nexit 3\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(UserError, match="node says 'TypeError: not a style'"):
        avatars.draw_avatars([("micah", {})])


def packed(folder: Path) -> Path:
    """An unpacked npm package."""
    (folder / "package").mkdir(exist_ok=True)
    return folder


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:") and "\n" not in said
    return said
