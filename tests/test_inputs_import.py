"""`train.data import`: folders as people have them, every picture and row in or told of."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.batch.shards import tar_bytes
from runtime.errors import UserError
from tests.support.mistakes import refused
from train.data.__main__ import main
from train.data.folder import Folder, read_folder
from train.data.shards import picture_names, picture_of, read_records, read_shard, record_of
from train.data.split import split_folder

ROOT = Path(__file__).parent.parent
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def png(colour: tuple[int, int, int] = RED, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, format)
    return buffer.getvalue()


def fill(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def captions(folder: Path) -> dict[str, tuple[str, ...]]:
    return {source.relative: source.record.captions for source in read_folder(folder).sources}


def unmatched(found: Folder) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in found.unmatched]


def row(name: str, text: Any, **more: Any) -> str:
    return json.dumps({"file_name": name, "text": text, **more}) + "\n"


# ---- the convention -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["text", "caption", "prompt"])
def test_metadata_csv(text: str, tmp_path: Path) -> None:
    table = f'file_name,{text},year\na.png,"a fox, red",1999\nb.png,a pizza,\n'
    found = read_folder(fill(tmp_path, {"metadata.csv": table, "a.png": png(), "b.png": png(), "b.txt": "a pizza"}))
    assert {one.relative: one.record.captions for one in found.sources} == {
        "a.png": ("a fox, red",),
        "b.png": ("a pizza",),
    }
    assert found.sources[0].record.facts["metadata"] == {"year": "1999"} and not found.unmatched


def test_metadata_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    fill(tmp_path, {"a.png": png(), "b.png": png()})
    columns = {"file_name": ["a.png", "b.png"], "text": [["a fox", "fox"], ["a pizza"]], "seen": [1, None]}
    write_table(pyarrow.table(columns), tmp_path / "metadata.parquet")
    assert captions(tmp_path) == {"a.png": ("a fox", "fox"), "b.png": ("a pizza",)}
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match="metadata.parquet cannot be read"):
        read_folder(tmp_path)


def test_metadata_in_the_folders_of_the_splits(tmp_path: Path) -> None:
    files = {f"{split}/{name}.png": png() for split in ("train", "test") for name in "ab"}
    said = {f"{split}/metadata.jsonl": row("a.png", split) + row("b.png", split) for split in ("train", "test")}
    found = read_folder(fill(tmp_path, {**files, **said}))
    assert captions(tmp_path) == {name: (name.split("/")[0],) for name in files} and not found.unmatched
    split = split_folder(found.sources, None)
    sides = {name: [source.record.captions[0] for source in members] for name, members in split.members.items()}
    assert sides == {"train": ["train"] * 2, "held_out": ["test"] * 2} and "train and test" in split.how
    assert set(split_folder(found.sources, 0.0).members) == {"train"}  # the user's own wish comes first


def test_one_metadata_file_above_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a.png": png(), "validation/b.png": png(), "metadata.csv": "file_name,text\n"})
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/a.png,a fox\nvalidation/b.png,a pizza\n")
    members = split_folder(read_folder(tmp_path).sources, None).members
    assert [source.record.captions for source in members["held_out"]] == [("a pizza",)]


@pytest.mark.parametrize("name", ["./b/c.png", "b\\c.png", "b/../b/c.png", ".\\b\\c.png", " b/c.png "])
def test_names_however_they_are_written(name: str, tmp_path: Path) -> None:
    fill(tmp_path, {"b/c.png": png(), "metadata.jsonl": row(name, "a fox")})
    assert captions(tmp_path) == {"b/c.png": ("a fox",)}


def test_a_whole_path_into_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, {"b/c.png": png(), "metadata.jsonl": row(str(tmp_path / "b/c.png"), "a fox")})
    assert captions(tmp_path) == {"b/c.png": ("a fox",)}


def test_several_captions_of_one_picture(tmp_path: Path) -> None:
    said = row("a.png", ["a fox", "a red fox", "a fox"]) + row("b.png", "a pizza") + row("b.png", "food")
    fill(tmp_path, {"a.png": png(), "b.png": png(), "metadata.jsonl": said})
    assert captions(tmp_path) == {"a.png": ("a fox", "a red fox"), "b.png": ("a pizza", "food")}


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".tga", ".jfif", ".PNG", ".Jpeg", ".ppm", ".qoi", ".ico"])
def test_kinds_of_pictures(suffix: str, tmp_path: Path) -> None:
    kinds = {".avif": "AVIF", ".jp2": "JPEG2000", ".tga": "TGA", ".jfif": "JPEG", ".jpeg": "JPEG", ".ppm": "PPM"}
    data = png(format={**kinds, ".qoi": "QOI", ".ico": "ICO"}.get(suffix.lower(), "PNG"))
    fill(tmp_path, {f"a{suffix}": data, "a.txt": "a fox"})
    (source,) = read_folder(tmp_path).sources
    assert np.abs(source.draw(16)[8, 8].astype(int) - RED).max() < 16


@pytest.mark.parametrize(("name", "why"), [("a.heic", "HEIC"), ("a.svg", "SVG"), ("a.jxl", "JPEG XL")])
def test_kinds_that_are_named(name: str, why: str, tmp_path: Path, capsys: Any) -> None:
    starts = {"HEIC": b"\0\0\0\x18ftypheic", "SVG": b"<svg xmlns=''/>", "JPEG XL": b"\xff\x0a"}
    fill(tmp_path / "in", {name: starts[why] + bytes(32), "a.txt": "a", "b.png": png(), "b.txt": "b"})
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "16"]) == 0
    assert "1 skipped" in capsys.readouterr().out
    assert why in json.loads((tmp_path / "out/skipped.jsonl").read_text())["why"]


def test_hidden_files_are_none_of_ours(tmp_path: Path) -> None:
    mac = {"._a.png": b"\0\5\26\7", "__MACOSX/._a.png": b"\0\5\26\7", ".cache/b.png": png(), "._a.txt": b"\0\xff"}
    found = read_folder(fill(tmp_path, {"a.png": png(), "a.txt": "a fox", **mac}))
    assert found.found == 1 and not found.unmatched


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    fill(tmp_path, {"else/where/a.png": png(), "else/where/a.txt": "a fox", "mine/b.png": png(), "mine/b.txt": "b"})
    (tmp_path / "mine/linked").symlink_to(tmp_path / "else/where")
    (tmp_path / "mine/round").symlink_to(tmp_path / "mine")
    assert captions(tmp_path / "mine") == {"b.png": ("b",), "linked/a.png": ("a fox",)}


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png())
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("a café")
    assert [source.record.captions for source in read_folder(tmp_path).sources] == [("a café",)]
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "out"), "--size", "16"]) == 0


# ---- what finds no partner ------------------------------------------------------------------------------------------

AMISS: dict[str, tuple[Mapping[str, str | bytes], tuple[str, str], str]] = {
    "a row whose picture is missing": (
        {"metadata.jsonl": row("a.png", "a") + row("gone.png", "b")},
        ("rows without a picture", "gone.png"),
        "line 2: there is no such file",
    ),
    "another case": (
        {"metadata.jsonl": row("a.png", "a") + row("A.PNG", "b")},
        ("rows without a picture", "A.PNG"),
        "line 2: there is a.png, but letters' case counts",
    ),
    "outside of the folder": (
        {"metadata.jsonl": row("a.png", "a") + row("../x.png", "b")},
        ("rows without a picture", "../x.png"),
        "it is outside of the folder",
    ),
    "an address": (
        {"metadata.jsonl": row("a.png", "a") + row("https://example.com/x.png", "b")},
        ("rows without a picture", "https://example.com/x.png"),
        "there is no such file",
    ),
    "no kind of picture": (
        {"metadata.jsonl": row("a.png", "a") + row("x.mp4", "b"), "x.mp4": b"\0"},
        ("rows without a picture", "x.mp4"),
        "it is not a kind of picture that can be read",
    ),
    "a picture without a row": (
        {"metadata.jsonl": row("a.png", "a"), "b.png": png()},
        ("pictures without a caption", "b.png"),
        "no row and no .txt names it",
    ),
    "a row without text": (
        {"metadata.csv": "file_name,text\na.png,a\nb.png,\n", "b.png": png()},
        ("pictures without a caption", "b.png"),
        "line 3 gives it no text",
    ),
    "no text as pandas writes it": (
        {"metadata.jsonl": row("a.png", "a") + row("b.png", float("nan")), "b.png": png()},
        ("pictures without a caption", "b.png"),
        "line 2 gives it no text",
    ),
    "an empty text file": (
        {"a.txt": "a", "b.png": png(), "b.txt": "\n"},
        ("pictures without a caption", "b.png"),
        "no row and no .txt names it",
    ),
    "the same row twice": (
        {"metadata.jsonl": row("a.png", "a") + row("./a.png", "a")},
        ("repeated rows", "./a.png"),
        "line 2: another row says the same",
    ),
    "the same row in two files": (
        {"metadata.jsonl": row("a.png", "a"), "metadata.csv": "file_name,text\na.png,a\n"},
        ("repeated rows", "a.png"),
        "line 1: another row says the same",
    ),
    "a text file and a row that differ": (
        {"metadata.jsonl": row("a.png", "a"), "a.txt": "b"},
        ("caption files that a row overrules", "a.png"),
        "the .txt beside it and its row differ",
    ),
    "a text file beside nothing": (
        {"a.txt": "a", "b.txt": "b"},
        ("caption files without a picture", "b.txt"),
        "no picture has its name",
    ),
}


@pytest.mark.parametrize("name", AMISS)
def test_what_has_no_partner_is_told(name: str, tmp_path: Path, capsys: Any) -> None:
    files, (kind, which), why = AMISS[name]
    folder, out = fill(tmp_path / "in", {"a.png": png(), **files}), tmp_path / "out"
    assert unmatched(read_folder(folder)) == [(kind, which)]
    line = refused(capsys, main, "import", folder, "--out", out, "--size", "16", "--strict")
    assert which in line and why in line and "1 left out, which --strict forbids" in line
    assert not out.exists()
    assert main(["import", str(folder), "--out", str(out), "--size", "16"]) == 0
    told = capsys.readouterr().out
    found = 1 + ("b.png" in files)
    assert f"{found} picture files found, 1 {kind} (unmatched.jsonl)" in told.splitlines()[-1]
    (written,) = map(json.loads, (out / "unmatched.jsonl").read_text().splitlines())
    assert (written["kind"], written["name"]) == (kind, which) and why in written["why"]
    assert json.loads((out / "dataset.json").read_text())["unmatched"][kind] == 1


def test_all_is_well_and_strict(tmp_path: Path, capsys: Any) -> None:
    folder = fill(tmp_path / "in", {"a.png": png(), "a.txt": "a", "b.png": png(), "b.txt": "b"})
    assert main(["import", str(folder), "--out", str(tmp_path / "out"), "--size", "16", "--strict"]) == 0
    assert capsys.readouterr().out.endswith("; 2 picture files found, nothing unmatched (unmatched.jsonl)\n")


def test_a_damaged_picture_is_not_strict(tmp_path: Path, capsys: Any) -> None:
    folder = fill(tmp_path / "in", {"a.png": png(), "a.txt": "a", "b/c.png": png()[:45], "b/c.txt": "b"})
    line = refused(capsys, main, "import", folder, "--out", tmp_path / "out", "--strict")
    assert "1 left out, which --strict forbids; first b/c.png: " in line and not (tmp_path / "out").exists()


MISTAKES: dict[str, tuple[Mapping[str, str | bytes], str]] = {
    "no caption column": ({"metadata.csv": "file_name,label\na.png,fox\n"}, "no column 'text', 'caption', 'captions'"),
    "no name column": ({"metadata.csv": "image;text\na.png;fox\n"}, "line 1: the header has no column 'file_name'"),
    "no name": ({"metadata.jsonl": '{"text": "a"}'}, "line 1: it has no file_name"),
    "a name that is none": ({"metadata.jsonl": row("", "a")}, "line 1: file_name must be the name of a picture"),
    "a number as a name": ({"metadata.jsonl": '{"file_name": 7, "text": "a"}'}, "line 1: file_name must be"),
    "a number as a text": ({"metadata.jsonl": row("a.png", 7)}, "text must be a text or a list of texts, not '7'"),
    "a list of others": ({"metadata.jsonl": row("a.png", [{"raw": "a"}])}, "line 1: text must be a text or a list"),
    "a JSON list": ({"metadata.jsonl": "[1]"}, "line 1: a JSON object is needed"),
    "torn": ({"metadata.jsonl": row("a.png", "a") + '{"file_'}, "line 2: it is not JSON"),
    "cells": ({"metadata.csv": "file_name,text\na.png,a fox, red\n"}, "line 2: 3 cells, but the header names 2"),
    "a quote": ({"metadata.csv": 'file_name,text\na.png,"a fox\n'}, "line 2: unexpected end of data"),
    "NUL": ({"metadata.jsonl": row("a.png", "a\0b")}, "line 1: it holds NUL characters"),
    "nothing said": ({}, "no captioned pictures (a.png: no row and no .txt names it)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_line(name: str, tmp_path: Path, capsys: Any) -> None:
    files, says = MISTAKES[name]
    folder = fill(tmp_path / "in", {"a.png": png(), **files})
    assert says in refused(capsys, main, "import", folder, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=50, deadline=None)
@given(
    data=st.binary(max_size=120), name=st.sampled_from(["metadata.csv", "metadata.jsonl", "metadata.parquet", "a.txt"])
)
def test_any_bytes_are_read_or_refused_in_one_line(data: bytes, name: str, tmp_path_factory: Any) -> None:
    folder = fill(tmp_path_factory.mktemp("any"), {"a.png": png(), name: data})
    try:
        assert all(source.record.captions for source in read_folder(folder).sources)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)


# ---- what one command writes the other reads ------------------------------------------------------------------------


def facts(number: int, **where: str) -> dict[str, Any]:
    return {"row": number, **where, "prompt": f"a fox, {number}", "typed_prompt": "a fox", "seed": number}


def test_the_folder_of_a_batch(tmp_path: Path) -> None:
    lines = "".join(json.dumps(facts(n, path=f"00000/{n:08d}-a-fox.png")) + "\n" for n in range(2))
    pictures = {f"00000/{n:08d}-a-fox.png": png() for n in range(2)}
    fill(tmp_path, {"manifest.jsonl": lines, "run.json": "{}", "times.jsonl": "", ".run/lock": b"", **pictures})
    found = read_folder(tmp_path)
    assert [source.record.captions for source in found.sources] == [("a fox, 0",), ("a fox, 1",)]
    assert not found.unmatched and found.sources[1].record.facts["metadata"]["seed"] == 1


def test_shards_of_a_batch_are_read_in_training(tmp_path: Path, capsys: Any) -> None:
    samples = [
        (facts(n, path="000000.tar", member=f"{n:09d}.png"), png(colour)) for n, colour in enumerate((RED, BLUE))
    ]
    shard = fill(tmp_path, {"000000.tar": tar_bytes(samples), "run.json": "{}"}) / "000000.tar"
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(said) + "\n" for said, _ in samples))
    records = [record_of(sample) for sample in read_shard(str(shard))]
    assert [record.captions for record in records] == [("a fox, 0",), ("a fox, 1",)]
    line = refused(capsys, main, "import", tmp_path, "--out", tmp_path / "out")
    assert "holds WebDataset shards, which need no import: train with data=" in line
    (tmp_path / "manifest.jsonl").unlink()
    assert "shards (000000.tar), which need no import" in refused(
        capsys, main, "import", tmp_path, "--out", tmp_path / "o"
    )


@pytest.mark.parametrize("name", ["caption", "text", "captions", "prompt"])
@pytest.mark.parametrize("value", ["a fox", ["a fox", "fox"]])
def test_captions_in_other_peoples_shards(name: str, value: Any) -> None:
    assert record_of({"__key__": "a", "json": json.dumps({name: value}).encode()}).captions[0] == "a fox"


def test_what_was_imported_is_what_is_read(tmp_path: Path) -> None:
    colours = {"a": RED, "b": GREEN, "c": BLUE}
    folder = fill(tmp_path / "in", {f"{name}.png": png(colour) for name, colour in colours.items()})
    (folder / "metadata.jsonl").write_text("".join(row(f"{name}.png", name, note=name) for name in colours))
    assert main(["import", str(folder), "--out", str(tmp_path / "out"), "--size", "16", "--held-out", "0"]) == 0
    read = {
        record.captions[0]: (tuple(pixels[8, 8]), record.facts["metadata"])
        for record, pixels in read_records(tmp_path / "out", "train")
    }
    assert read == {name: (colour, {"note": name}) for name, colour in colours.items()}


# ---- twice, with something changed in between -----------------------------------------------------------------------


def test_a_picture_that_changed_is_not_left_as_it_was(tmp_path: Path, capsys: Any) -> None:
    folder = fill(tmp_path / "in", {"a.png": png(), "a.txt": "a", "b.png": b"broken", "b.txt": "b"})
    arguments = ["import", str(folder), "--out", str(tmp_path / "out"), "--size", "16"]
    assert main(arguments) == 0
    before = contents(tmp_path / "out")
    assert main(arguments) == 0
    assert contents(tmp_path / "out") == before
    (folder / "b.png").write_bytes(png(BLUE))
    assert "holds shards of other pictures (or they changed)" in refused(capsys, main, *arguments)
    assert contents(tmp_path / "out") == before


def test_an_import_that_was_stopped_goes_on(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "in", {f"{n}.png": png() for n in range(4)} | {f"{n}.txt": f"number {n}" for n in range(4)}
    )
    arguments = ["import", str(folder), "--out", str(tmp_path / "out"), "--size", "16"]
    assert main(arguments) == 0
    before = contents(tmp_path / "out")
    for name in ("train-00000.tar", "dataset.json", "unmatched.jsonl"):
        (tmp_path / "out" / name).unlink()
    assert main(arguments) == 0
    assert contents(tmp_path / "out") == before
    with tarfile.open(tmp_path / "out/train-00000.tar") as archive:
        assert len(archive.getnames()) == 6


SMALL_SHARDS = (
    "import sys, train.data.writer as w; from train.data.__main__ import main; w.SHARD_SIZE = 4; sys.exit(main())"
)


def test_an_import_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle, twice, each time after further shards: the end is that of an undisturbed run."""
    files = {f"{n:03}.png": png() for n in range(240)} | {f"{n:03}.txt": f"number {n}" for n in range(240)}
    arguments = ["import", str(fill(tmp_path / "in", files)), "--size", "512", "--held-out", "0.1", "--out"]
    monkeypatch.setattr("train.data.writer.SHARD_SIZE", 4)
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    for wanted in (3, 9):
        process = subprocess.Popen([sys.executable, "-c", SMALL_SHARDS, *arguments, str(out)], cwd=ROOT)
        while len(list(out.glob("*.tar"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not (out / "dataset.json").exists()
    kept = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    assert main([*arguments, str(out)]) == 0
    assert {name: (out / name).stat().st_ino for name in kept} == kept
    assert contents(out) == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- shards of other people -----------------------------------------------------------------------------------------


def shard_of(path: Path, members: Mapping[str, bytes]) -> list[dict[str, Any]]:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return list(read_shard(str(path)))


def test_two_pictures_under_one_key_are_named(tmp_path: Path) -> None:
    (sample,) = shard_of(
        tmp_path / "a.tar",
        {f"fox_v1.0_{one}.{kind}": png() if kind == "png" else b"a fox" for one in "ab" for kind in ("png", "txt")},
    )
    assert sample["__key__"] == "fox_v1"  # as webdataset itself
    with pytest.raises(ValueError, match=r"fox_v1\.0_a\.png and fox_v1\.0_b\.png are two pictures of one key"):
        picture_of(sample)
    (both,) = shard_of(tmp_path / "b.tar", {"a.png": png(), "a.jpg": png(), "a.txt": b"a"})
    with pytest.raises(ValueError, match=r"a\.png and a\.jpg are two pictures of one key"):
        picture_of(both)


def test_a_plain_picture_comes_before_others(tmp_path: Path) -> None:
    (sample,) = shard_of(tmp_path / "a.tar", {"a.mask.png": png(BLUE), "a.jpg": png(RED, "JPEG"), "a.txt": b"a"})
    found = picture_of(sample)
    assert isinstance(found, Image.Image) and np.abs(np.asarray(found)[8, 8].astype(int) - RED).max() < 8
    assert picture_names(sample) == (["jpg"], ["mask.png"])
    (dotted,) = shard_of(tmp_path / "b.tar", {"a.image.png": png(BLUE), "a.txt": b"a"})
    found = picture_of(dotted)
    assert isinstance(found, Image.Image) and found.getpixel((8, 8)) == BLUE


@pytest.mark.parametrize("kind", ["gif", "bmp", "tif", "avif", "JPG", "ppm"])
def test_kinds_of_pictures_in_shards(kind: str, tmp_path: Path) -> None:
    formats = {"tif": "TIFF", "JPG": "JPEG"}
    (sample,) = shard_of(tmp_path / "a.tar", {f"a.{kind}": png(RED, formats.get(kind, kind.upper())), "a.txt": b"a"})
    found = picture_of(sample)
    assert isinstance(found, Image.Image) and np.abs(np.asarray(found)[8, 8].astype(int) - RED).max() < 16


# ---- odd folders ----------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_left_out_and_told(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", {"a.png": png(), "a.txt": "a", "b.txt": "b", "c.txt": "c", "d.txt": "d"})
    (folder / "b.png").symlink_to("gone.png")
    (folder / "c.png").mkdir()
    os.mkfifo(folder / "d.png")  # nobody ever writes to it
    arguments = ["import", str(folder), "--out", str(tmp_path / "out"), "--size", "16"]
    assert main(arguments) == 0 and main(arguments) == 0
    skipped = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert {row["file"]: row["why"] for row in skipped} == {
        "b.png": "cannot be read: No such file or directory",
        "d.png": "it is a pipe or a device, not a file",
    }
    (left,) = map(json.loads, (tmp_path / "out/unmatched.jsonl").read_text().splitlines())
    assert left["name"] == "c.txt"


@pytest.mark.parametrize("name", ["metadata.json", "captions.csv", "labels.xlsx", "train/data.parquet"])
def test_a_table_of_another_name_is_named(name: str, tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(), name: "file_name,text\na.png,a\n"})
    with pytest.raises(UserError, match=f"no captioned pictures; {name} is not read: save it as metadata.csv"):
        read_folder(tmp_path)


def test_other_ways_to_write_names(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(), "a.png.txt": "whole", "b.png": png(), "b.TXT": "capitals", "c.png": png()})
    (tmp_path / "c.caption").write_text("kohya")
    assert captions(tmp_path) == {"a.png": ("whole",), "b.png": ("capitals",), "c.png": ("kohya",)}
    fill(tmp_path, {"Metadata.CSV": "file_name,text\na.png,said\n"})
    assert captions(tmp_path)["a.png"] == ("said",)
