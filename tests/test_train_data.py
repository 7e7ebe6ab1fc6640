"""train.data and its parts: captions, the split, decoding guards, restart, a user's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.decoding import MAX_PIXELS, BadPicture
from runtime.errors import UserError
from tests.support.mistakes import refused
from tests.support.pictures import huge_png_header
from tests.support.train_fixtures import picture, png
from train import registry
from train.config import DEMO_SHARD
from train.data import folder as data_folder
from train.data import writer
from train.data.__main__ import main
from train.data.pictures import decode, rasterize_svg
from train.data.shards import Record, read_facts, read_records, write_shard
from train.data.split import split_pictures
from train.sticker import packages
from train.sticker.captions import Emoji, concept_of, group_of, is_held_out, normalize_code, phrasings, style_of

FOX = Emoji("1F98A", ("fox", "fox face"), ("animal", "face"), "animals-nature", "1F98A", False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "train.data", *arguments], check=False, capture_output=True, text=True)


def test_codes_and_concepts_lose_variants() -> None:
    assert normalize_code("0023-fe0f-20e3") == "0023-20E3"
    assert concept_of("1F469-1F3FD-200D-1F692") == concept_of("1F468-200D-1F692") == "1F9D1-200D-1F692"
    assert concept_of("1F3C3-200D-2640") == "1F3C3"
    assert concept_of("1F98A") == "1F98A"


def test_phrasings_name_the_style_and_start_plain() -> None:
    captions = phrasings(FOX, "3d style")
    assert captions[:2] == ["fox, 3d style", "fox face, 3d style"]
    assert captions[-2:] == ["fox", "a fox"]
    assert all("3d style" in caption for caption in captions[:-2])
    assert len(set(captions)) == len(captions) >= 6


def test_held_out_is_a_tenth_and_never_moves() -> None:
    codes = [f"{code:X}" for code in range(0x1F300, 0x1F300 + 4000)]
    held = [code for code in codes if is_held_out(code)]
    assert 0.08 < len(held) / len(codes) < 0.12
    assert is_held_out("1F98A") is False  # on the contact sheet
    assert held == [code for code in codes if is_held_out(code)]


def test_decode_checks_the_header_before_the_pixels() -> None:
    for side in (11_000, 20_000):  # within what Pillow itself would open, and beyond
        assert side * side > MAX_PIXELS
        with pytest.raises(BadPicture, match="too large"):
            decode(huge_png_header(side, side), 128)


@pytest.mark.parametrize("damaged", [b"", b"not a picture", png(picture("red", "disc"))[:60], huge_png_header(9, 9)])
def test_decode_refuses_damaged_files(damaged: bytes) -> None:
    with pytest.raises(BadPicture):
        decode(damaged, 128)


def test_decode_puts_transparent_pictures_on_white_and_keeps_the_aspect() -> None:
    wide = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    pixels = decode(png(wide), 80)
    assert pixels.shape == (80, 80, 3)
    assert tuple(pixels[0, 40]) == (255, 255, 255)
    assert tuple(pixels[40, 40]) == (255, 0, 0)


def test_svg_is_drawn_on_white() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><rect width="1" height="2" fill="#00f"/></svg>'
    pixels = rasterize_svg(svg, 64)
    assert tuple(pixels[32, 10]) == (0, 0, 255)
    assert tuple(pixels[32, 60]) == (255, 255, 255)
    with pytest.raises(BadPicture):
        rasterize_svg("<svg", 64)


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    for index in range(6):
        picture("red" if index % 2 else "blue", "disc").save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture number {index}")
    (folder / "broken.png").write_bytes(b"\x89PNG oops")
    (folder / "broken.txt").write_text("a broken file")
    (folder / "bomb.png").write_bytes(huge_png_header(30_000, 30_000))
    (folder / "bomb.txt").write_text("far too large")
    picture("red", "disc").save(folder / "no_caption.png")
    return folder


def test_import_skips_bad_pictures_with_a_count_and_a_list(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    done = run("import", str(folder), "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert sum(summary["pictures"].values()) == 6
    assert summary["skipped"] == 2
    skipped = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert {row["file"] for row in skipped} == {"broken.png", "bomb.png"}
    assert any("too large" in row["why"] for row in skipped)


def test_import_reads_metadata_jsonl(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    picture("red", "disc").save(folder / "a.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a red disc"}) + "\n")
    (source,) = data_folder.read_folder(folder).sources
    assert source.record.captions == ("a red disc",)
    (folder / "metadata.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match="line 1"):
        data_folder.read_folder(folder)


def test_bad_folders_end_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        done = run("import", str(folder), "--out", str(tmp_path / "out"))
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_second_run_keeps_finished_shards(tmp_path: Path) -> None:
    folder, out = make_folder(tmp_path / "mine"), tmp_path / "out"
    sources = data_folder.read_folder(folder).sources
    splits = {"train": sources[:4], "held_out": sources[4:]}
    first = writer.write_dataset(splits, out, 32, {})
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    shard = next(iter(sorted(out.glob("train-*.tar"))))
    shard.unlink()  # as if the run had been stopped before this shard
    second = writer.write_dataset(splits, out, 32, {})
    assert second == first
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert {name for name in before if before[name] != after[name]} == {shard.name}
    with pytest.raises(UserError, match="other pictures"):
        writer.write_dataset({"train": sources[:2]}, out, 32, {})
    with pytest.raises(UserError, match="of another split"):
        writer.write_dataset({"train": sources[:3], "held_out": sources[3:]}, out, 32, {})


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer.write_dataset({"train": data_folder.read_folder(make_folder(tmp_path / "mine")).sources}, out, 32, {})
    records = list(read_records(out, "train"))
    assert all(pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 for _, pixels in records)
    assert all(record.captions[0].startswith("picture number") for record, _ in records)


# ---- further facts in a record -----------------------------------------------------------------------------------


def test_the_demo_shards_records_keep_what_their_maker_said() -> None:
    """Written when a record had these three as fields of its own."""
    records = list(read_facts(Path(DEMO_SHARD), "train"))
    assert len(records) == 240 and {frozenset(record.facts) for record in records} == {
        frozenset({"style", "concept", "group"})
    }
    first = records[0]
    assert first.unit == first.facts["concept"] in first.key and first.weight > 0.5 and len(first.captions) > 3
    assert {style_of(record) for record in records} == {"fluent-3d", "fluent-flat"}
    assert {group_of(record) for record in records} == {"food-drink", "animals-nature"}


def test_facts_go_into_a_shard_and_come_back(tmp_path: Path) -> None:
    made = [
        Record("a", ("a red disc", "disc"), 0.25, {"concept": "disc", "size": [3, 4], "by": None}),
        Record("b", ("a square",)),
    ]
    write_shard(tmp_path / "train-00000.tar", [(record, png(picture("red", "disc", 32))) for record in made])
    assert list(read_facts(tmp_path, "train")) == made
    assert [record.unit for record in made] == ["disc", "b"]


# ---- the split of a user's pictures -------------------------------------------------------------------------------


def captioned(folder: Path, captions: list[str]) -> Path:
    """A picture for each caption."""
    folder.mkdir()
    rows = []
    for index, caption in enumerate(captions):
        picture("red", "disc", 32).save(folder / f"{index:04d}.png")
        rows.append(json.dumps({"file_name": f"{index:04d}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def split_of(folder: Path, fraction: float = 0.1) -> tuple[dict[str, int], str]:
    found = split_pictures(data_folder.read_folder(folder).sources, fraction)
    return {name: len(members) for name, members in found.members.items()}, found.how


def test_ten_pictures_of_one_caption_are_split_by_picture(tmp_path: Path) -> None:
    counts, how = split_of(captioned(tmp_path / "ten", ["a disc"] * 10))
    assert counts == {"train": 9, "held_out": 1} and how.startswith("by picture (1 captions are too few")


def test_many_pictures_of_few_captions_are_split_by_picture(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "many", [f"a disc of kind {index % 10}" for index in range(600)])
    counts, _ = split_of(folder)
    assert counts == {"train": 540, "held_out": 60}
    assert split_of(folder, 0.999)[0] == {"train": 1, "held_out": 599}


def test_with_enough_captions_whole_ones_are_held_out_and_stay_so(tmp_path: Path) -> None:
    captions = [f"disc number {index // 2}" for index in range(400)]
    folder = captioned(tmp_path / "all", captions)
    found = split_pictures(data_folder.read_folder(folder).sources, 0.1)
    sides = [{source.record.captions for source in found.members[name]} for name in ("train", "held_out")]
    assert not sides[0] & sides[1] and 20 <= len(found.members["held_out"]) <= 80 and found.how.startswith("by caption")
    fewer = split_pictures(data_folder.read_folder(folder).sources[:380], 0.1)
    kept = {source.record.key for source in found.members["held_out"]}
    assert {source.record.key for source in fewer.members["held_out"]} <= kept


def test_a_caption_of_most_pictures_is_not_held_out_whole(tmp_path: Path) -> None:
    common = next(f"photo {n}" for n in range(99) if writer.is_held_out(unit_of_caption(f"photo {n}"), 0.1))
    folder = captioned(tmp_path / "uneven", [common] * 300 + [f"disc number {index}" for index in range(200)])
    counts, how = split_of(folder)
    assert counts == {"train": 450, "held_out": 50} and how.startswith("by picture")


def unit_of_caption(text: str) -> str:
    return data_folder._folder_record("x.png", (text,), {}).unit


def test_a_picture_that_cannot_be_read_is_not_the_held_out_one(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "two", ["a disc"] * 4)
    (first,) = split_pictures(data_folder.read_folder(folder).sources, 0.1).members["held_out"]
    assert isinstance(first, data_folder.FolderPicture)
    first.path.write_bytes(b"no picture")
    (second,) = split_pictures(data_folder.read_folder(folder).sources, 0.1).members["held_out"]
    assert second.record.key != first.record.key


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(UserError, match="--held-out .*: must be a share of the pictures, at least 0 and below 1"):
        split_of(captioned(tmp_path / "x", ["a", "b"]), fraction)


def test_import_says_how_it_split_and_may_hold_out_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = captioned(tmp_path / "mine", ["a disc"] * 4)
    main(["import", str(folder), "--out", str(tmp_path / "out"), "--size", "16", "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["pictures"] == {"train": 3, "held_out": 1} and summary["split"].startswith("by picture")
    assert summary == json.loads((tmp_path / "out/dataset.json").read_text())
    main(["import", str(folder), "--out", str(tmp_path / "all"), "--size", "16", "--held-out", "0"])
    assert "{'train': 4}, split nothing held out, 0 skipped" in capsys.readouterr().out
    assert [path.name for path in sorted((tmp_path / "all").glob("*.tar"))] == ["train-00000.tar"]
    arguments = "import", folder, "--out", tmp_path / "all", "--size", "16"
    assert "another split or size" in refused(capsys, main, *arguments)


def test_a_folder_of_bad_pictures_alone_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = captioned(tmp_path / "bad", ["a disc"] * 2)
    for path in folder.glob("*.png"):
        path.write_bytes(b"no picture")
    line = refused(capsys, main, "import", folder, "--out", tmp_path / "out")
    assert "no picture for training could be read; " in line and "skipped.jsonl says why" in line


# ---- archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["off", "elsewhere"])
def test_fetched_archives_have_a_folder_even_where_nothing_is_kept(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADDKIT_CACHE", "off" if value == "off" else str(tmp_path / value))
    monkeypatch.setattr(registry, "_download", lambda package, folder: folder / "archive.whl")
    monkeypatch.setattr(registry, "verify", lambda archive, package: None)
    monkeypatch.setattr(registry, "_unpack", lambda archive, folder: (folder / "data").write_text("fetched"))
    folder = registry.fetch(packages.PACKAGES["emojilib"])
    assert (folder / "data").read_text() == "fetched" and folder.name.startswith("emojilib-")
    assert folder.is_relative_to(tmp_path / value) == (value == "elsewhere")
    monkeypatch.setattr(registry, "_download", lambda *_: pytest.fail("it is fetched again"))
    assert registry.fetch(packages.PACKAGES["emojilib"]) == folder


def test_a_fetched_archive_must_match_its_hash(tmp_path: Path) -> None:
    archive = tmp_path / "emojilib.tgz"
    archive.write_bytes(b"something else")
    with pytest.raises(UserError, match="does not match its pinned hash"):
        registry.verify(archive, packages.PACKAGES["emojilib"])


def test_missing_npm_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not on the PATH"):
        registry.fetch(packages.PACKAGES["emojilib"])
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDKIT_CACHE", str(tmp_path))
    fake = tmp_path / "npm"
    fake.write_text("#!/bin/sh\necho 'npm error network request failed' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="could not be fetched.*network"):
        registry.fetch(packages.PACKAGES["emojilib"])
