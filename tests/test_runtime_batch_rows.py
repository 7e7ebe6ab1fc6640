"""Prompts files, names and the files in a batch's folder: all that happens before and after the pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.batch import __main__ as batch
from runtime.batch import plan as batch_plan
from runtime.batch import start
from runtime.batch.folder import Folder, open_folder, worker_lock
from runtime.batch.ledger import Ledger, to_line
from runtime.batch.names import MOST_PART, Distinct, automatic_path, named_path
from runtime.batch.rows import Row, row_seed

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_of(name: str, *arguments: str) -> list[Row]:
    """The rows that the command would make of a file."""
    from runtime.bundle import open_bundle

    args = batch.parser().parse_args([name, "--out", "out", *arguments])
    return list(start.rows_of(args, start.settings_of(args, open_bundle(TINY))[1]))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, bundle: Path = TINY) -> str:
    """The one line on stderr of a command that exits with 2, and leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    code = batch.main([*arguments, "--bundle", str(bundle)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    assert sorted(Path().rglob("*")) == before
    return err


CSV = '\ufeffprompt, seed ,width,height,name\r\n"a fox,\n3d style",7,40,32,fox\r\n\r\na pizza,,,,\r\n'
CSV += '"say ""hi""",-1,,,b/hi.PNG\r\n'
JSONL = '{"prompt": "a fox,\\n3d style", "seed": 7, "width": 40, "height": 32, "name": "fox"}\n\n'
JSONL += '{"prompt": "a pizza"}\n{"prompt": "say \\"hi\\"", "seed": -1, "name": "b/hi.PNG", "width": null}'


@pytest.mark.parametrize(("name", "text", "lines"), [("p.csv", CSV, [2, 5, 6]), ("p.jsonl", JSONL, [1, 3, 4])])
def test_csv_and_json_lines_hold_the_same(name: str, text: str, lines: list[int]) -> None:
    Path(name).write_bytes(text.encode())
    first, second, third = rows_of(name)
    assert first == Row(0, lines[0], "a fox,\n3d style", 7, "fox.png")
    assert second == Row(1, lines[1], "a pizza", row_seed(0, 1), "00000/00000001-a-pizza.png")
    assert third == Row(2, lines[2], 'say "hi"', -1, "b/hi.PNG")


def test_a_text_file_has_a_prompt_a_line() -> None:
    Path("p.txt").write_bytes("a fox\r\n\n  狐, 3d style \n".encode())
    found = [(row.row, row.line, row.prompt, row.path) for row in rows_of("p.txt", "--format", "webp")]
    assert found == [
        (0, 1, "a fox", "00000/00000000-a-fox.webp"),
        (1, 3, "狐, 3d style", "00000/00000001-狐-3d-style.webp"),
    ]


def test_further_columns_are_carried_where_asked_for() -> None:
    Path("p.csv").write_text("id,prompt,label\n1,a fox,animal\n2,a pizza,\n")
    extras = [row.extra for row in rows_of("p.csv", "--keep", "id", "--keep", "label")]
    assert extras == [{"id": "1", "label": "animal"}, {"id": "2", "label": ""}]
    Path("p.jsonl").write_text('{"prompt": "a fox", "id": [1]}\n{"prompt": "a pizza"}\n')
    assert [row.extra for row in rows_of("p.jsonl", "--keep", "id")] == [{"id": [1]}, {}]


def test_seeds_of_rows_without_one() -> None:
    Path("p.txt").write_text("a fox\n" * 200)
    seeds = [row.seed for row in rows_of("p.txt")]
    assert seeds == [row.seed for row in rows_of("p.txt")] and len(set(seeds)) == 200
    assert all(0 <= seed < 2**32 for seed in seeds) and seeds[:2] == [row_seed(0, 0), row_seed(0, 1)]
    assert not set(seeds) & {row.seed for row in rows_of("p.txt", "--seed", "1")}
    assert row_seed(0, 0) == 0x5FD4A14C  # `printf 0:0 | b2sum -l 32`, low byte first


def test_names_fill_folders_of_a_thousand() -> None:
    paths = [automatic_path(row, "../A fox!", "png") for row in (0, 999, 1000, 123_456_789)]
    assert paths == [
        "00000/00000000-a-fox.png",
        "00000/00000999-a-fox.png",
        "00001/00001000-a-fox.png",
        "123456/123456789-a-fox.png",
    ]
    assert automatic_path(0, "\udcff", "jpeg") == "00000/00000000-picture.jpg"


def test_names_get_the_formats_ending() -> None:
    named = [named_path(name, "jpeg") for name in ("a", "a.jpg", "b/a.JPEG", "v1.2", "狐 fox")]
    assert named == ["a.jpg", "a.jpg", "b/a.JPEG", "v1.2.jpg", "狐 fox.jpg"]


BAD_NAMES = ["../x", "/x", "a//b", "a/../b", "a\\b", "C:x", "x\n", ".x", "a/.b/c", "x.", "x ", "a*", "\udcff"]
BAD_NAMES += ["x" * (MOST_PART + 1), "a/" * 600 + "x", "manifest.jsonl/x", "a.png/x", "x.webp"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        named_path(name, "png")


BAD_FILES = {
    "no.csv": (None, "cannot read no.csv: No such file"),
    "x.xml": ("a", "--prompts-format"),
    "empty.txt": (" \n", "holds no prompts"),
    "header.csv": ("prompt\n", "holds no prompts"),
    "bytes.txt": (b"a fox\n\xff\n", "bytes.txt, line 2: it is not UTF-8 (byte 1)"),
    "bytes.csv": (b"prompt\na\n\xff\n", "bytes.csv, line 3: it is not UTF-8"),
    "nul.txt": ("a\0b", "line 1: the prompt holds a NUL"),
    "columns.csv": ("prompt,sead,label\na,1,2\n", "line 1: unknown column 'sead', 'label' (known: prompt, seed,"),
    "twice.csv": ("prompt,prompt\na,b\n", "names 'prompt' twice"),
    "lacks.csv": ("seed\n1\n", "line 1: the header has no column 'prompt'"),
    "cells.csv": ("prompt,seed\na,1\nb\n", "line 3: 1 cells, but the header names 2 columns"),
    "quote.csv": ('prompt\n"a\nb\n', "line 2: unexpected end of data (is a quote left open?)"),
    "prompt.csv": ("prompt,seed\na,\n ,\n", "line 3: the prompt is empty"),
    "seed.csv": ("prompt,seed\na,one\n", "line 2: seed must be a whole number, not 'one'"),
    "range.csv": (f"prompt,seed\na,{2**64}\n", "line 2: seed 18446744073709551616 is out of range"),
    "size.csv": ("prompt,width,height\na,64,32\n", "line 2: a picture of 64x32 is not possible: bundle tiny makes"),
    "path.csv": ("prompt,name\na,../../x\n", "line 2: name '../../x' is not allowed: it must be a path below"),
    "same.csv": ("prompt,name\na,x\nb,y\nc,Y.png\nd,x\n", "lines 3 and 4: both name the same output file"),
    "auto.csv": ("prompt,name\na,\nb,00000/00000000-a\n", "lines 2 and 3: both name"),
    "json.jsonl": ('{"prompt": "a"}\n{"prompt": \n', "line 2: it is not JSON"),
    "deep.jsonl": ("[" * 100_000, "line 1: it is not JSON"),
    "list.jsonl": ('["a"]\n', "line 1: a JSON object is needed"),
    "none.jsonl": ('{"seed": 1}\n', "line 1: it has no prompt"),
    "type.jsonl": ('{"prompt": 7}\n', "line 1: prompt must be a string, not 7"),
    "float.jsonl": ('{"prompt": "a", "seed": 1.5}\n', "line 1: seed must be a whole number, not '1.5'"),
    "bool.jsonl": ('{"prompt": "a", "seed": true}\n', "line 1: seed must be a whole number"),
    "name.jsonl": ('{"prompt": "a", "name": 7}\n', "line 1: name must be a string"),
    "key.jsonl": ('{"prompt": "a", "negative": "b"}\n', "unknown column 'negative'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_prompts_file(capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, says = BAD_FILES[name]
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(capsys, name, "--out", "out")
    assert says in line and name in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "out", "--workers", "0"], "--workers must be 1 or more"),
        (["--out", "out", "--quality", "90"], "PNG is lossless"),
        (["--out", "out", "--format", "webp", "--quality", "101"], "1 to 100"),
        (["--out", "out", "--format", "gif"], "invalid choice: 'gif'"),
        (["--out", "out", "--num-inference-steps", "5"], "one of 1, 2, 3, 4"),
        (["--out", "out", "--seed", str(2**64)], "out of range"),
        (["--out", "out", "--shard-size", "5"], "--shard-size needs --webdataset"),
        (["--out", "out", "--webdataset", "--shard-size", "0"], "1 or more"),
        (["--out", "out", "--keep", "seed"], "read anyway"),
        (["--out", "out", "--keep", "id"], "a text file has none"),
        (["--out", "out", "--provider", "tpu"], "choose auto, cpu"),
        (["--out", "out", "--ray-address", "auto"], "needs --provider"),
        (["--out", "full"], "full is not empty (x.txt)"),
        (["--out", "file"], "cannot write to file"),
        (["--out", "/proc/x"], "cannot write to /proc/x"),
        ([], "--out"),
    ],
    ids=str,
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    Path("p.txt").write_text("a fox\n")
    Path("file").touch()
    Path("full").mkdir()
    Path("full/x.txt").touch()
    assert says in refused(capsys, "p.txt", *arguments)


def test_a_dot_in_a_webdataset_key(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.csv").write_text("prompt,name\na fox,v1.2\n")
    assert "line 2: name 'v1.2' holds a dot" in refused(capsys, "p.csv", "--out", "out", "--webdataset")
    assert [row.path for row in rows_of("p.csv")] == ["v1.2.png"]


def test_a_missing_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.txt").write_text("a fox\n")
    assert "no bundle" in refused(capsys, "p.txt", "--out", "out", bundle=Path("nowhere"))


def test_without_ray_one_line_names_the_extra(tmp_path: Path) -> None:
    Path("p.txt").write_text("a fox\n")
    code = "import sys; sys.modules['ray'] = None; from runtime.batch.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "p.txt", "--out", "out", "--bundle", str(TINY)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "pip install 'addkit[batch]'" in done.stderr
    assert not Path("out").exists()


def test_many_names_are_compared_in_little_memory() -> None:
    distinct = Distinct()
    for i in range(20_000):
        distinct.add(f"{i}.png", i + 1)
    distinct.check("p.csv")
    distinct.add("E\u0301.png", 20_001)
    distinct.add("é.PNG", 20_002)
    distinct.add("7.png", 20_003)
    with pytest.raises(ValueError, match="p.csv, lines 20001 and 20002: "):
        distinct.check("p.csv")


def row(number: int) -> Row:
    return Row(number, number + 1, f"a fox {number}", number, f"{number}.png")


def test_a_plan_holds_what_is_left_and_what_all_is() -> None:
    path = Path("rows.jsonl")
    everything = batch_plan.write(map(row, range(100)), path, 1, lambda _: False)
    assert list(batch_plan.read(path)) == [row(i) for i in range(100)]
    rest = batch_plan.write(map(row, range(100)), path, 1, lambda i: i % 3 > 0, prefix=60)
    left = list(batch_plan.read(path))
    assert [one.row for one in left] == list(range(0, 100, 3)) and rest.todo == 34
    assert (rest.rows, rest.sha256) == (100, everything.sha256)
    sixty = batch_plan.write(map(row, range(60)), path, 1, lambda _: False, prefix=61)
    assert rest.prefix_sha256 == sixty.sha256 and sixty.prefix_sha256 is None
    shards = batch_plan.write(map(row, range(25)), path, 10, lambda i: i != 7)
    assert [one.row for one in batch_plan.read(path)] == list(range(10)) and list(shards.counts) == [10]


@pytest.mark.parametrize(("workers", "unit"), [(1, 1), (7, 1), (2, 10)])
def test_chunks_cover_the_plan(workers: int, unit: int) -> None:
    plan = batch_plan.write(map(row, range(999)), Path("rows.jsonl"), unit, lambda i: i in (3, 500))
    chunks = list(plan.chunks(workers, unit))
    lines = Path("rows.jsonl").read_bytes()
    found = [line for chunk in chunks for line in lines[chunk["offset"] :].splitlines()[: chunk["rows"]]]
    assert found == lines.splitlines() and len(found) == plan.todo and len(chunks) >= workers


def filled(*rows: int) -> Ledger:
    ledger = Ledger(Path("m.jsonl"))
    for number in rows:
        ledger.add(number, to_line({"row": number, "prompt": "狐"}))
    ledger.close()
    return ledger


def test_a_ledger_is_sorted_in_the_end() -> None:
    ledger = filled(5, 0, 3)
    ledger.add(3, b"again\n")
    assert [json.loads(line)["row"] for line in Path("m.jsonl").read_text().splitlines()] == [5, 0, 3]
    ledger.sort()
    ledger.add(1, to_line({"row": 1}))
    ledger.sort()
    assert [json.loads(line)["row"] for line in Path("m.jsonl").read_text().splitlines()] == [0, 1, 3, 5]
    before = Path("m.jsonl").stat().st_ino
    ledger.sort()
    assert Path("m.jsonl").stat().st_ino == before and "狐" in Path("m.jsonl").read_text()
    for number in (0, 1, 3, 5):
        ledger.forget(number)
    ledger.sort()
    assert not Path("m.jsonl").exists()
    ledger.add(2, to_line({"row": 2}))  # as a run that lost everything goes on
    assert [row for row, _ in ledger.lines()] == [2]


@pytest.mark.parametrize("cut", range(1, 28, 4))
def test_a_torn_ledger_line_is_dropped(cut: int) -> None:
    filled(2, 0, 1)
    data = Path("m.jsonl").read_bytes()
    Path("m.jsonl").write_bytes(data[:-cut])
    ledger = Ledger(Path("m.jsonl"))
    assert ledger.read(lambda _: True) == 1 and ledger.count == 2 and 1 not in ledger
    ledger.sort()
    ledger.add(1, to_line({"row": 1, "prompt": "狐"}))
    ledger.sort()
    assert Path("m.jsonl").read_bytes() == b"".join(sorted(data.splitlines(keepends=True)))


def test_lines_that_are_none_are_forgotten() -> None:
    good = to_line({"row": 0})
    bad = [b"\0" * 40 + b"\n", b"[]\n", b'{"row": -1}\n', b'{"row": true}\n', b"{}\n", good]
    Path("m.jsonl").write_bytes(good + b"".join(bad) + b'{"row": 9}\n')
    ledger = Ledger(Path("m.jsonl"))
    assert ledger.read(lambda facts: facts["row"] != 9) == len(bad) + 1 and ledger.count == 1


def test_text_that_is_no_utf8_is_escaped() -> None:
    assert to_line({"prompt": "fox \udcff"}) == b'{"prompt": "fox \\udcff"}\n'


def test_what_a_killed_run_left_is_mended() -> None:
    facts: dict[str, Any] = {"path": "a/0.png", "bytes": 4}
    with open_folder(Path("out")) as folder:
        folder.begin({"seed": 0})
    Path("out/a").mkdir()
    Path("out/a/0.png").write_bytes(b"1234")
    Path("out/a/1.png").write_bytes(b"123")
    partial = [Path("out/a/.0.png.addkit-0123abcd.tmp"), Path("out/.run/.rows.jsonl.addkit-01234567.tmp")]
    for path in partial:
        path.mkdir()
        (path / "half").write_bytes(b"12")
    lines = [{"row": 0, **facts}, {"row": 1, **facts, "path": "a/1.png"}, {"row": 2, **facts, "path": "a/2.png"}]
    Path("out/manifest.jsonl").write_bytes(b"".join(map(to_line, lines)) + b'{"row": 3')
    Path("out/times.jsonl").write_bytes(b'{"row": 0}\n{"ro')
    with open_folder(Path("out")) as folder:
        assert folder.mend() == 3 and folder.manifest.count == 1
    assert Path("out/manifest.jsonl").read_bytes() == to_line(lines[0])
    assert Path("out/times.jsonl").read_bytes() == b'{"row": 0}\n' and not any(path.exists() for path in partial)
    assert Path("out/a/1.png").exists()  # a picture without a line: the worker looks at it


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 200_000])
def test_times_without_any_line(size: int) -> None:
    with open_folder(Path("out")) as folder:
        folder.begin({"seed": 0})
    Path("out/times.jsonl").write_bytes(b"x" * size)
    with open_folder(Path("out")) as folder:
        folder.mend()
    assert Path("out/times.jsonl").read_bytes() == b""


def test_a_folder_is_one_runs() -> None:
    with open_folder(Path("out")) as folder:
        folder.begin({"seed": 0, "rows": 3, "rows_sha256": "x"})
        with pytest.raises(Exception, match="another run is writing to out"), open_folder(Path("out")):
            pass
    with open_folder(Path("out")) as folder:
        folder.agree({"seed": 0})
        folder.agree_on_rows("x")
        with pytest.raises(ValueError, match="started with seed 0, not 1"):
            folder.agree({"seed": 1})
        with pytest.raises(ValueError, match="only add rows"):
            folder.agree_on_rows(None)


def test_workers_of_a_killed_run_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.batch.folder._PATIENCE_S", 0.3)
    with open_folder(Path("out")):
        worker = worker_lock(Path("out"))
        other = worker_lock(Path("out"))
    with pytest.raises(Exception, match="workers of an earlier run"), open_folder(Path("out")):
        pass
    worker.close()
    other.close()
    with open_folder(Path("out")) as folder:
        assert isinstance(folder, Folder)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_run_file_that_is_none(content: str) -> None:
    Path("out").mkdir()
    Path("out/run.json").write_text(content)
    with pytest.raises(ValueError, match="choose another --out"), open_folder(Path("out")):
        pass
