"""Variation in bulk: each row is completed by its seed or its own words, and a resumed run is the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import runtime
from runtime.batch import __main__ as batch
from runtime.batch.rows import Row
from runtime.batch.shards import read_samples
from runtime.image_files import read_parameters
from runtime.variation import Variation
from scripts.variation_cases import table
from tests.support.one_process import OneProcess
from tests.support.varied import TINY, varied_bundle

pytest.importorskip("ray")
VARIATION = Variation.from_json(table())
CSV = """prompt,seed,name,variation
a fox,7,fox,
a fox,8,again,auto
a fox,7,plain,none
a fox,7,left,facing=left; size=large
something else,7,other,
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_bundle(tmp_path_factory.mktemp("varied") / "bundle")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runtime.batch.run.Pool", OneProcess)
    Path("p.csv").write_text(CSV)


def run(bundle: Path, *arguments: str) -> int:
    return batch.main([*arguments, "--bundle", str(bundle), "--workers", "1"])


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_rows_are_completed_and_the_same_after_a_loss(folder: Path) -> None:
    assert run(folder, "p.csv", "--out", "out") == 0
    found = lines("out/manifest.jsonl")
    whole = [VARIATION.complete("a fox", seed) for seed in (7, 8)]
    left = VARIATION.complete("a fox", 7, {"facing": "facing left", "size": "large"})
    assert [one["prompt"] for one in found] == [*whole, "a fox", left, "something else"]
    assert [one.get("typed_prompt") for one in found] == ["a fox", "a fox", None, "a fox", None]
    assert [one.get("variation") for one in found] == [None, None, "none", None, None]
    pipe, texts = runtime.load(TINY), []
    for one in found:
        data = Path("out", one["path"]).read_bytes()
        texts.append(read_parameters(data)[1])
        assert texts[-1].startswith(one["prompt"] + "\nSteps: 1")
        wanted = pipe(one["prompt"], seed=one["seed"])[0]  # typed by hand, in a bundle without a table
        assert Image.open(io.BytesIO(data)).tobytes() == wanted.tobytes()
    assert 'Typed prompt: "a fox", Version' in texts[0] and "Variation: none" in texts[2]
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.name in ("manifest.jsonl", "fox.png")}
    kept = Path("out/manifest.jsonl").read_text().splitlines(keepends=True)
    Path("out/manifest.jsonl").write_text("".join(kept[:1]))  # of the others, the pictures are there
    Path("out/fox.png").unlink()
    changed = Path("out/plain.png").stat().st_mtime_ns
    assert run(folder, "p.csv", "--out", "out") == 0
    assert {path: path.read_bytes() for path in before} == before
    assert Path("out/plain.png").stat().st_mtime_ns == changed  # taken as it was


def test_shards(folder: Path) -> None:
    assert run(folder, "p.csv", "--out", "out", "--webdataset", "--shard-size", "3") == 0
    samples = [sample for path in sorted(Path("out").glob("*.tar")) for sample in read_samples(path)]
    assert [facts["prompt"] for facts, _ in samples[:2]] == [VARIATION.complete("a fox", seed) for seed in (7, 8)]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("out").glob("*.tar")}
    Path("out/manifest.jsonl").unlink()
    assert run(folder, "p.csv", "--out", "out", "--webdataset", "--shard-size", "3") == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_the_flag_is_of_rows_that_do_not_say(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "p.csv", "--out", "out", "--plain") == 0
    whole = VARIATION.complete("a fox", 8)
    assert [one["prompt"] for one in lines("out/manifest.jsonl")][:3] == ["a fox", whole, "a fox"]
    capsys.readouterr()
    assert run(folder, "p.csv", "--out", "out") == 2  # not the same pictures
    assert "the prompts are not the 5 that out was started with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"prompt": "a fox", "variation": "facing=up"}', "p.jsonl, line 1: variation facing='up': choose one of"),
        ('{"prompt": "a fox", "variation": {"wheels": "4"}}', "there is no wheels"),
        ('{"prompt": "a fox", "variation": {"facing": 4}}', 'variation must be "auto", None or {property: word}'),
        ('{"prompt": "a fox", "variation": "some"}', "'some' is not auto, none or PROPERTY=WORD"),
        ('{"prompt": "a fox", "variation": true}', 'variation must be "auto", None or {property: word}'),
    ],
)
def test_mistakes_are_told_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], row: str, says: str
) -> None:
    Path("p.jsonl").write_text(row + "\n")
    assert run(folder, "p.jsonl", "--out", "out") == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not Path("out").exists()


def test_without_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TINY, "p.csv", "--out", "out") == 2
    assert "line 5: bundle tiny has no table of variation: leave variation facing out" in capsys.readouterr().err


def test_rows_survive_their_lines() -> None:
    for variation in ("auto", None, {"facing": "left"}):
        row = Row(0, 1, "a fox", 7, "fox.png", {}, None, variation)
        assert Row.from_line(row.to_line()) == row
    assert len({Row(0, 1, "a", 7, "a.png", {}, None, one).identity() for one in ("auto", None, {"a": "b"})}) == 3
    assert Row(0, 1, "a", 7, "a.png").identity() == b'["a", 7, "a.png", {}]\n'  # as earlier versions wrote it
