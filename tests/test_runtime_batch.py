"""Bulk generation: what it writes, that a killed run ends in the same folder, and its errors.

Tests in this process share one Ray, or need none where they are about the folder alone; those that kill, or look at the
terminal, use separate processes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import runtime
from runtime.batch import __main__ as batch
from runtime.batch import worker as batch_worker
from runtime.batch.folder import open_folder
from runtime.batch.ray_pool import Pool, require
from runtime.batch.start import rows_of, settings_of
from runtime.batch.worker import Worker
from runtime.errors import Error
from runtime.image_files import SUFFIXES, read_parameters
from tests.support.one_process import OneProcess

pytest.importorskip("ray")
ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
ROWS = 24


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for the file: it takes seconds to start. Workers find the packages as this process does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    with Pool(None, 2, "cpu", False):
        yield
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.batch.run.Pool", OneProcess)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, workers: int = 1) -> int:
    return batch.main([*arguments, "--bundle", str(TINY), "--workers", str(workers)])


def report(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """What `--json` prints."""
    capsys.readouterr()
    assert run(*arguments, "--json") == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "runtime.batch", *arguments, "--bundle", str(TINY)]


def started(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process, and a group of processes, of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments), env=environment, start_new_session=True, **pipes, **options)


def said(err: str) -> list[str]:
    """The lines on stderr that are not progress."""
    return [line for line in err.splitlines() if " images" not in line]


def tree(folder: str) -> dict[str, str]:
    """All of a folder that two equal runs have in common: names and hashes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "times.jsonl"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def prompts(name: str = "p.txt", count: int = ROWS) -> str:
    Path(name).write_text("".join(f"a fox number {i}, 3d style\n" for i in range(count)))
    return name


@pytest.mark.parametrize("format", SUFFIXES)
def test_pictures_and_their_manifest(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    request.getfixturevalue("ray" if format == "png" else "here")
    long = "fox " * 99
    Path("p.csv").write_text(f"prompt,seed,name,id\n狐 fox,7,fox,a\na pizza,,,b\n{long},3,b/long,c\n", encoding="utf-8")
    assert run("p.csv", "--out", "out", "--format", format, "--keep", "id") == 0
    out, err = capsys.readouterr()
    assert out == "out/manifest.jsonl\n"
    assert said(err) == ["warning: prompts that were too long and cut: 1; see dropped_words in the manifest"]
    found = lines("out/manifest.jsonl")
    suffix = SUFFIXES[format]
    assert [facts["path"] for facts in found] == [f"fox{suffix}", f"00000/00000001-a-pizza{suffix}", f"b/long{suffix}"]
    assert [facts["extra"] for facts in found] == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    dropped = len(runtime.load(TINY).tokenizer.encode(long).dropped_words)
    assert 0 < dropped < 99 and [facts.get("dropped_words") for facts in found] == [None, None, dropped]
    for row, facts in enumerate(found):
        data = Path("out", facts["path"]).read_bytes()
        assert (facts["row"], facts["bytes"], facts["sha256"]) == (row, len(data), hashlib.sha256(data).hexdigest())
        size, text = read_parameters(data)
        assert size == (facts["height"], facts["width"]) == (32, 40)
        assert text == (
            f"{facts['prompt']}\nSteps: 1, Sampler: DDIM, CFG scale: 0.0, Seed: {facts['seed']}, Size: 40x32, "
            f"Model: tiny, Version: addkit {runtime.__version__}"
        )
        if format == "png":
            wanted = runtime.generate(facts["prompt"], seed=facts["seed"], bundle=TINY)
            assert Image.open(io.BytesIO(data)).tobytes() == wanted.tobytes()
    times = lines("out/times.jsonl")
    assert sorted(one["row"] for one in times) == [0, 1, 2] and all(one["ms"]["total"] > 0 for one in times)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        ".run", "00000", "b", f"fox{suffix}", "manifest.jsonl", "run.json", "times.jsonl",
    ]  # fmt: skip


def test_again_and_with_more_rows(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    prompts(count=10)
    first = report(capsys, "p.txt", "--out", "out")
    assert (first["rows"], first["made"], first["there"], first["workers"]) == (10, 10, 0, 1)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*") if path.is_file()}
    again = report(capsys, "p.txt", "--out", "out")
    assert (again["rows"], again["made"], again["there"], again["workers"]) == (10, 0, 10, 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    prompts(count=15)
    more = report(capsys, "p.txt", "--out", "out")
    assert (more["rows"], more["made"], more["there"]) == (15, 5, 10)
    assert report(capsys, "p.txt", "--out", "whole")["made"] == 15
    assert tree("out") == tree("whole")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["p.txt", "--seed", "1"], "started with seed 0, not 1"),
        (["p.txt", "--format", "webp"], "started with format png, not webp"),
        (["p.txt", "--num-inference-steps", "2"], "started with num_inference_steps 1, not 2"),
        (["p.txt", "--webdataset"], "started with shard_size None, not 1000"),
        (["fewer.txt"], "only add rows at their end"),
        (["other.txt"], "only add rows at their end"),
    ],
    ids=str,
)
def test_another_run_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    prompts()
    prompts("fewer.txt", ROWS - 1)
    Path("other.txt").write_text(Path("p.txt").read_text().replace("number 0", "number zero"))
    begin("p.txt")
    before = tree("out")
    assert run(*arguments, "--out", "out") == 2
    err = capsys.readouterr().err
    assert says in err and len(said(err)) == 1 and tree("out") == before


def begin(name: str) -> None:
    """A folder in which a run was begun, but nothing made."""
    from runtime.batch.run import Run
    from runtime.bundle import open_bundle

    args = batch.parser().parse_args([name, "--out", "out"])
    settings, rules = settings_of(args, open_bundle(TINY))
    with open_folder(Path("out")) as folder:
        Run(folder, settings, str(TINY)).prepare(lambda: rows_of(args, rules))
        folder.todo.unlink()


def test_another_bundle_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    prompts()
    begin("p.txt")
    other = Path(shutil.copytree(TINY, "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "training": {"seed": 2}}))
    assert batch.main(["p.txt", "--out", "out", "--bundle", "other"]) == 2
    assert "started with bundle_sha256" in capsys.readouterr().err


def test_two_runs_in_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    prompts()
    with open_folder(Path("out")):
        assert run("p.txt", "--out", "out") == 2
    assert "another run is writing to out" in capsys.readouterr().err


def test_a_row_that_fails_stops_no_other(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text('{"prompt": "a fox"}\n{"prompt": "bad \\udcff"}\n{"prompt": "a pizza"}\n')
    for _ in range(2):  # the second run tries the row again
        assert run("p.jsonl", "--out", "out") == 1
        err = capsys.readouterr().err
        assert said(err) == ["warning: rows that failed: 1 of 3; out/failed.jsonl says why"]
        assert [facts["row"] for facts in lines("out/manifest.jsonl")] == [0, 2]
        (failed,) = lines("out/failed.jsonl")
        assert (failed["row"], failed["line"], failed["prompt"]) == (1, 2, "bad \udcff")
        assert "UTF-8" in failed["error"]


def test_what_is_lost_is_made_again_and_the_same(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A torn line, a line without its picture, a picture without a line, a damaged one, another's picture."""
    prompts()
    assert run("p.txt", "--out", "out") == 0
    whole, pictures = tree("out"), [Path("out", facts["path"]) for facts in lines("out/manifest.jsonl")]
    manifest = Path("out/manifest.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/manifest.jsonl").write_bytes(b"".join(manifest[:20]) + manifest[20][:40])
    pictures[3].unlink()
    pictures[4].write_bytes(pictures[4].read_bytes()[:-20])
    pictures[21].write_bytes(pictures[21].read_bytes()[:-20])
    shutil.copy(pictures[0], pictures[22])
    kept = {path: path.stat().st_ino for i, path in enumerate(pictures) if i not in (3, 4, 21, 22)}
    Path("out/times.jsonl").unlink()
    found = report(capsys, "p.txt", "--out", "out")
    assert (found["there"], found["made"]) == (18, 6)
    assert tree("out") == whole and {path: path.stat().st_ino for path in kept} == kept
    assert sorted(one["row"] for one in lines("out/times.jsonl")) == [3, 4, 21, 22]


def test_webdataset_shards(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    import webdataset

    Path("p.jsonl").write_text("".join(f'{{"prompt": "a fox {i}", "seed": {i}}}\n' for i in range(ROWS)))
    arguments = ("p.jsonl", "--out", "out", "--webdataset", "--shard-size", "10")
    assert report(capsys, *arguments)["made"] == ROWS
    assert sorted(path.name for path in Path("out").glob("*.tar")) == ["000000.tar", "000001.tar", "000002.tar"]
    data = webdataset.WebDataset("out/{000000..000002}.tar", shardshuffle=False).decode("pil")
    samples = list(data)
    assert [sample["__key__"] for sample in samples] == [f"{i:09d}" for i in range(ROWS)]
    for i, (sample, facts) in enumerate(zip(samples, lines("out/manifest.jsonl"), strict=True)):
        assert (facts["path"], facts["member"]) == (f"{i // 10:06d}.tar", f"{i:09d}.png")
        assert sample["json"] == {name: value for name, value in facts.items() if name not in ("path", "member")}
        if i % 8 == 0:
            assert sample["png"].tobytes() == runtime.generate(f"a fox {i}", seed=i, bundle=TINY).tobytes()
    whole = tree("out")
    inodes = {name: Path("out", name).stat().st_ino for name in ("000000.tar", "000001.tar")}
    manifest = Path("out/manifest.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/manifest.jsonl").write_bytes(b"".join(manifest[:15]))  # 000001.tar is whole, but unlisted
    Path("out/000002.tar").write_bytes(Path("out/000002.tar").read_bytes()[:-9000])
    assert run(*arguments) == 0 and tree("out") == whole
    assert inodes == {name: Path("out", name).stat().st_ino for name in inodes}
    with open("p.jsonl", "a") as file:
        file.write('{"prompt": "one more"}\n')
    assert report(capsys, *arguments)["made"] == 5  # the last shard is written again
    assert run(*arguments[:2], "whole", *arguments[3:]) == 0 and tree("out") == tree("whole")


def test_a_disk_that_takes_no_more_ends_the_run(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.csv").write_text("prompt,name\na fox,x/fox\n")
    begin("p.csv")
    Path("out/x").touch()
    assert run("p.csv", "--out", "out") == 2
    err = capsys.readouterr().err
    assert len(said(err)) == 1 and said(err)[0].startswith("error: cannot make folder ")
    Path("out/x").unlink()
    assert run("p.csv", "--out", "out") == 0


def test_a_workers_other_bundle_is_refused(tmp_path: Path) -> None:
    from runtime.bundle import open_bundle

    prompts()
    begin("p.txt")
    args = batch.parser().parse_args(["p.txt", "--out", "out"])
    settings, _ = settings_of(args, open_bundle(TINY))
    other = Path(shutil.copytree(TINY, "other"))
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + "\n")
    Path("out/.run/rows.jsonl").write_text("")
    worker = Worker(settings, "out", "other", "out/.run/rows.jsonl")
    (told,) = worker.reports(0, 1)
    assert "is not the driver's bundle" in told["fatal"] and told["made"] == []


def test_more_workers_than_cores_are_refused(ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    prompts()
    assert batch.main(["p.txt", "--out", "out", "--bundle", str(TINY), "--workers", "99"]) == 2
    assert "--workers 99 is more than Ray's cores: 2 at most" in capsys.readouterr().err


class Dies(Worker):
    """A worker whose process ends in the middle of its first chunk, once."""

    def _computed(self, row: Any) -> Any:
        if row.row == 5 and not Path(self.folder, "died").exists():
            Path(self.folder, "died").touch()
            os._exit(1)
        return super()._computed(row)


def test_a_worker_that_dies_is_replaced(ray: None, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    prompts()
    monkeypatch.setattr("runtime.batch.ray_pool.Worker", Dies)
    monkeypatch.setattr(batch_worker, "Worker", Dies)
    require().cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert report(capsys, "p.txt", "--out", "out")["made"] == ROWS
    assert Path("out/died").exists() and len(lines("out/manifest.jsonl")) == ROWS


def test_rays_own_failure_is_one_line(ray: None) -> None:
    with pytest.raises(Error, match="Ray stopped the run: .*; the same command resumes") as caught:
        list(Pool(None, 1, "cpu", False).__enter__().reports([{"offset": 0, "rows": 1}], {"wrong": 1}))
    assert "\n" not in str(caught.value)


def killed(count: int, kills: int, *arguments: str, shard: int = 1) -> None:
    """Kills a run at random moments, starts it again, and compares its folder with an undisturbed run's.

    `shard`: rows a file, so that no start comes to the end.
    """
    chance = random.Random(count + kills)
    prompts(count=count)
    seen: dict[Path, tuple[int, int]] = {}
    for number in range(kills):
        process = started("p.txt", "--out", "killed", *arguments)
        wanted = len(seen) + chance.randint(1, max(1, count // shard // (kills + 2)))
        end = time.monotonic() + 90
        while len(_pictures("killed")) < wanted and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        seen |= {path: facts for path, facts in _pictures("killed").items() if path not in seen}
        assert seen, number
    last = started("p.txt", "--out", "killed", "--json", *arguments)
    out, err = last.communicate(timeout=120)
    assert (last.returncode, said(err)) == (0, []), err  # nothing of Ray's, and no process of it remains
    end = time.monotonic() + 60
    while left := subprocess.run(["pgrep", "-g", str(last.pid)], check=False, capture_output=True, text=True).stdout:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    found = json.loads(out)
    assert found["rows"] == count and found["made"] + found["there"] == count and found["there"] > 0
    after = _pictures("killed")
    assert {path: after[path] for path in seen} == seen, "a picture was made twice"
    assert run("p.txt", "--out", "whole", *arguments, workers=2) == 0
    assert tree("killed") == tree("whole")
    assert len({one["row"] for one in lines("killed/times.jsonl")}) == len(lines("killed/times.jsonl"))


def _pictures(folder: str) -> dict[Path, tuple[int, int]]:
    """Pictures and shards with what changes when they are written again."""
    found = {}
    for place, _, names in os.walk(folder):  # which passes over what vanishes meanwhile
        for path in [Path(place, name) for name in names if not name.startswith(".")]:
            if path.suffix in (".png", ".tar"):
                facts = path.stat()
                found[path] = (facts.st_ino, facts.st_mtime_ns)
    return found


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_folder(ray: None) -> None:
    killed(200, 1)


@pytest.mark.slow
def test_a_run_killed_ten_times(ray: None) -> None:
    killed(3000, 10)


@pytest.mark.slow
def test_shards_of_a_run_killed_five_times(ray: None) -> None:
    killed(1200, 5, "--webdataset", "--shard-size", "50", shard=50)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on() -> None:
    prompts(count=3000)
    process = started("p.txt", "--out", "out")
    manifest = Path("out/manifest.jsonl")
    while not (manifest.exists() and manifest.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes in the group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert said(err) == ["stopped: finished pictures stay in out; the same command resumes from there"]
    assert not list(Path("out").rglob(".*.tmp"))
    with open_folder(Path("out")) as folder:
        assert folder.begun is not None and folder.mend() == 0 and folder.manifest.count > 0


def test_prompts_from_standard_input(ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a fox"}\n{"prompt": "a pizza"}\n')))
    assert run("-", "--prompts-format", "jsonl", "--out", "out", workers=2) == 0
    assert [facts["prompt"] for facts in lines("out/manifest.jsonl")] == ["a fox", "a pizza"]


def test_help_names_every_option_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert batch.main(["--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--out", "--workers", "--ray-address", "--webdataset", "--seed", "--format", "--quality", "--keep"):
        assert flag in text
    assert text.count("python -m runtime.batch") >= 4 and "exit code:" in text
