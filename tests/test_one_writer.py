"""There is one way to write files and folders whole, and it works: after kills, between processes, on a full disk."""

from __future__ import annotations

import ast
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from runtime.errors import OutputError
from runtime.files import kept_folder, locked, locks, take_lock, whole_file, whole_folder, whole_stream, write_whole
from runtime.files.locks import hold_folder, let_go

FCNTL: Any = locks.fcntl
ROOT = Path(__file__).parent.parent
PACKAGES = ("addkit", "runtime", "train", "export", "scripts")
WRITER = "runtime/files/"
MODULES = ("fcntl", "msvcrt")
CALLS = {("os", "replace"), ("os", "rename"), ("os", "renames"), ("os", "fsync"), ("shutil", "move"), ("os", "link")}
MADE_BESIDE = ("mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile")
# Files that may name one of these, with the reason.
EXCEPTIONS = {
    "export/openvino/int8.py": "it replaces an output of a graph, no file",
    "scripts/fuzz_files.py": "it damages bundles of its own temporary folder, by moving files out of it too",
    "scripts/fuzz_bundle.py": "it sorts cases of its own temporary folder; a killed one loses a test case",
}


# ---- nothing else writes -----------------------------------------------------------------------------------------


def other_ways(text: str) -> Iterator[str]:
    """What a source file names that belongs to the writer: renames, flushes to the disk, locks."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            found = {(str(node.module), alias.name) for alias in node.names}
            yield from (".".join(name) for name in sorted(found & CALLS))
            if node.module in MODULES:
                yield node.module
        elif isinstance(node, ast.Attribute) and (ast.unparse(node.value), node.attr) in CALLS:
            yield ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name == "rename" or (name == "replace" and len(node.args) == 1 and not node.keywords):  # of a Path
                yield f".{name}()"
            if name in MADE_BESIDE and any(keyword.arg == "dir" for keyword in node.keywords):
                yield f"{name}(dir=)"


def test_no_file_writes_in_another_way() -> None:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(WRITER) and (ways := sorted(set(other_ways(path.read_text(encoding="utf-8"))))):
                found[name] = ways
    assert {name: ways for name, ways in found.items() if name not in EXCEPTIONS} == {}
    assert set(found) == set(EXCEPTIONS), "an exception that is none any more"


@pytest.mark.parametrize(
    "line",
    [
        "import fcntl",
        "from os import replace",
        "import os\nos.fsync(file)",
        "import os\nmove = os.replace",
        "partial.rename(target)",
        "partial.replace(target)",
        "import shutil\nshutil.move(a, b)",
        "import tempfile\ntempfile.mkdtemp(dir=folder)",
    ],
)
def test_the_walk_sees_another_way(line: str) -> None:
    assert list(other_ways(line))


def test_the_walk_lets_other_replacing_be() -> None:
    assert not list(other_ways("text.replace('a', 'b')\ndataclasses.replace(row, key=1)\ntempfile.mkdtemp()"))


# ---- files -------------------------------------------------------------------------------------------------------


def test_libraries_that_write_by_path_see_the_targets_own_name(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.npy") as partial:
        assert partial.name == "a.npy" and partial.parent.parent == tmp_path
        np.save(partial, np.arange(3))
    with whole_file(tmp_path / "a.png") as partial:
        Image.new("RGB", (2, 2)).save(partial)
    with whole_file(tmp_path / "a.safetensors") as partial:
        save_file({"a": torch.zeros(3)}, partial)  # which renames its own temporary file
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.png", "a.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_other_files_of_the_maker(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.safetensors") as partial:
            save_file({"a": torch.zeros(3)}, partial)  # for its owner only
        with whole_folder(tmp_path / "folder") as folder:
            save_file({"a": torch.zeros(3)}, folder / "a")
            (folder / "run.sh").write_text("#!/bin/sh\n")
            (folder / "run.sh").chmod(0o755)
            (folder / "link").symlink_to(tmp_path / "elsewhere")
        with kept_folder(tmp_path / "kept") as folder:
            (folder / "a").write_text("")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("folder", "kept", "folder/run.sh")}
    assert modes == {"folder": 0o750, "kept": 0o700, "folder/run.sh": 0o755}
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640 for name in ("a.safetensors", "folder/a"))


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


WAITING = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from runtime.files import whole_stream
with whole_stream(sys.argv[1]) as file:
    file.write(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def waiting(path: Path) -> subprocess.Popen[str]:
    process = run_python(WAITING, str(path))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_killed_writers_remains_go_with_the_next_but_not_a_living_ones(tmp_path: Path) -> None:
    killed, living = waiting(tmp_path / "a.bin"), waiting(tmp_path / "b.bin")
    killed.kill()
    killed.communicate()
    assert len(os.listdir(tmp_path)) == 2
    with whole_stream(tmp_path / "c.bin") as file:
        file.write(b"whole")
    left = sorted(os.listdir(tmp_path))
    assert len(left) == 2 and left[0].startswith(".b.bin.") and left[1] == "c.bin"
    living.communicate("", timeout=20)
    assert sorted(os.listdir(tmp_path)) == ["b.bin", "c.bin"] and (tmp_path / "b.bin").read_bytes() == b"half"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_told_writer_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"before")
    process = waiting(tmp_path / "a.bin")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM and errors == "stopped by SIGTERM\n"
    assert os.listdir(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"before"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with whole_stream(tmp_path / "a") as first, whole_stream(tmp_path / "a") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]  # the last one to finish


def test_whoever_is_quicker_fills_a_cache(tmp_path: Path) -> None:
    with kept_folder(tmp_path / "entry") as late, kept_folder(tmp_path / "entry") as early:
        (early / "who").write_text("early")
        (late / "who").write_text("late")
    assert (tmp_path / "entry" / "who").read_text() == "early" and os.listdir(tmp_path) == ["entry"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="picture"), whole_file(tmp_path / "a"):
        (tmp_path / "picture").read_bytes()
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "b"):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_a_place_that_takes_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for whole, why in (
        (whole_folder, ".*/file is a file, not a folder; choose another path"),
        (kept_folder, "Not a dir"),
    ):
        with pytest.raises(OutputError, match=f"file/below/out: {why}"), whole(tmp_path / "file" / "below" / "out"):
            pytest.fail("there is such a folder")


# ---- a full disk -------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import numpy, torch
from pathlib import Path
from safetensors.torch import save_file
from runtime.errors import OutputError
from runtime.files import whole_file, whole_folder, write_whole
def tensors(path): save_file({"a": torch.zeros(100_000)}, path)
def array(path): numpy.save(path, numpy.zeros(100_000))
def plain(path): Path(path).write_bytes(bytes(200_000))
for write in (tensors, array, plain):
    for whole in (whole_file, whole_folder):
        try:
            with whole(sys.argv[1]) as partial:
                write(partial if whole is whole_file else partial / "inner")
        except OutputError as error:
            print(error)
try:
    with whole_folder(sys.argv[1]) as partial:
        write_whole(partial / "inner", bytes(200_000))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a file size limit")
def test_a_full_disk_is_one_line_that_names_the_target_whoever_wrote(tmp_path: Path) -> None:
    target = tmp_path / "out"
    told, errors = run_python(LIMITED, str(target)).communicate(timeout=120)
    lines = told.splitlines()
    assert len(lines) == 7, errors
    named = [target] * 6 + [target / "inner"]
    assert all(line.startswith(f"cannot write {path}: no space left") for line, path in zip(lines, named, strict=True))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs a file size limit")
def test_import_on_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    dice = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(dice.integers(0, 256, (64, 64, 3), np.uint8)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(f"noise number {index}")
    command = f"ulimit -f 60; trap '' XFSZ; exec {sys.executable} -m train.data import {pictures} --out {out} --size 64"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert said[-1].startswith(f"error: cannot write {out / 'train-00000.tar'}: no space left ")
    assert sum("cannot write" in line for line in said) == 1
    assert not [path for path in out.iterdir() if path.stat().st_size > 1000 or path.suffix in (".tar", ".tmp")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full_holds_nothing_of_ours(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(OutputError, match=f"cannot write {disk / 'a'}: no space left on the device; free some"):
            write_whole(disk / "a", bytes(1_000_000))
        with pytest.raises(OutputError, match="no space left on the device"), whole_folder(disk / "b") as folder:
            save_file({"a": torch.zeros(1_000_000)}, folder / "a")
        with pytest.raises(OutputError, match="no space left on the device"), kept_folder(disk / "c") as folder:
            (folder / "a").write_bytes(bytes(1_000_000))
        assert os.listdir(disk) == []
        write_whole(disk / "a", bytes(30_000))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ---- locks, with and without fcntl -------------------------------------------------------------------------------


def msvcrt_by_fcntl() -> ModuleType:
    """Windows' byte locks, as far as `locks` uses them, on Linux' byte locks of an open file."""
    module = ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, length: int) -> None:
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        facts = struct.pack("hhqqi", FCNTL.F_WRLCK, os.SEEK_SET, start, length, 0)
        try:
            FCNTL.fcntl(descriptor, FCNTL.F_OFD_SETLK, facts)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    vars(module).update(locking=locking, LK_NBLCK=2)
    return module


@pytest.fixture(params=["fcntl", "msvcrt", "neither"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "fcntl":
        monkeypatch.setattr(locks, "fcntl", None)
        monkeypatch.setattr(locks, "msvcrt", msvcrt_by_fcntl() if request.param == "msvcrt" else None)
    if request.param != "neither" and not hasattr(FCNTL, "F_OFD_SETLK"):
        pytest.skip("shown on Linux")
    return str(request.param)


def test_one_holder_or_many_that_share(system: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    alone = take_lock(path)
    assert alone is not None and take_lock(path) is None and take_lock(path, shared=True) is None
    alone.close()
    shared = [take_lock(path, shared=True) for _ in range(3)]
    assert take_lock(path) is None
    for lock in shared:
        assert lock is not None
        lock.close()
    with locked(path, "busy"), pytest.raises(OutputError, match="busy"), locked(path, "busy", patience_s=0.1):
        pass
    with locked(path, "busy"):
        pass


HOLDING = """
import sys
if sys.argv[2] == "neither":
    sys.modules["fcntl"] = sys.modules["msvcrt"] = None
from runtime.files import take_lock
lock = take_lock(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_lets_go(system: str, tmp_path: Path) -> None:
    if system == "msvcrt":
        pytest.skip("only Windows itself can show that")
    process = run_python(HOLDING, str(tmp_path / "lock"), system)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert take_lock(tmp_path / "lock") is None
    process.kill()
    process.communicate()
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    lock.close()


def test_where_folders_cannot_be_locked_their_age_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    old, young = tmp_path / ".out.addkit-0123abc0.tmp", tmp_path / ".out.addkit-0123abc1.tmp"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    with whole_folder(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == [young.name, "out"]


def test_a_held_folder_is_not_swept(tmp_path: Path) -> None:
    held = tmp_path / ".out.addkit-0123abc0.tmp"
    held.mkdir()
    os.utime(held, (0, 0))
    lock = hold_folder(held)
    with whole_folder(tmp_path / "out"):
        pass
    assert held.exists()
    let_go(lock)
    with whole_folder(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_targets_with_one_long_beginning_do_not_mix_their_remains(tmp_path: Path) -> None:
    one, other = tmp_path / ("x" * 230 + "1"), tmp_path / ("x" * 230 + "2")
    with whole_folder(one) as folder:
        (folder / "a").write_text("one")
        made = folder.name
    aside = tmp_path / f"{made}.old"
    one.rename(aside)  # as left by a process that is killed between two renames
    with whole_folder(other):
        pass
    assert aside.exists()
    with pytest.raises(ZeroDivisionError), whole_folder(one):
        _ = 1 / 0
    assert (one / "a").read_text() == "one" and not aside.exists()
