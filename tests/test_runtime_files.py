"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import OutputError
from runtime.files import check_writable, write_whole


def failing(code: int) -> Callable[..., Any]:
    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_writes_and_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_whole(path, b"first")
    write_whole(str(path), b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(OutputError, match="a.bin") as error:
        write_whole(path, b"after")
    assert ("space" in str(error.value)) == (code != errno.EIO)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.bin"]


def test_a_failure_leaves_nothing_where_nothing_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OutputError):
        write_whole(tmp_path / "a.bin", b"after")
    assert os.listdir(tmp_path) == []


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a.bin")
    write_whole(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "a.bin").read_bytes() == b"data"


def test_places_that_hold_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in [
        ("missing/a.bin", "no folder"),
        ("", "is a folder"),
        ("full", "device"),
        ("pipe", "pipe"),
        ("file/a.bin", "no folder"),
        ("x" * 300, "long"),
    ]:
        with pytest.raises(OutputError, match=reason):
            check_writable(tmp_path / name)
        with pytest.raises(OutputError, match="cannot write"):
            write_whole(tmp_path / name, b"")
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="another path"):
        check_writable(tmp_path / "a.bin")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_system_folder_is_refused() -> None:
    with pytest.raises(OutputError, match="/proc/a.bin"):
        check_writable("/proc/a.bin")


def test_the_trial_leaves_nothing(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "a.bin") == tmp_path.resolve() / "a.bin"
    assert os.listdir(tmp_path) == []


def test_names_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("狐" * 80 + ".png")
    write_whole(path, b"data")
    assert path.read_bytes() == b"data"


HELD = """
import os, sys
from pathlib import Path
from runtime.files import passing_folder
made = passing_folder(Path(sys.argv[1]) / "assembled")
(made / "x").write_text("x")
print(made, flush=True)
if sys.argv[2] == "fork" and os.fork() == 0:
    sys.exit()
if sys.argv[2] == "fork":
    os.wait()
    print((made / "x").is_file())
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""


def test_a_passing_folder_goes_with_its_process_and_what_a_killed_one_left_goes_next(tmp_path: Path) -> None:
    def run(how: str) -> list[str]:
        asked = [sys.executable, "-c", HELD, str(tmp_path), how]
        return subprocess.run(asked, capture_output=True, text=True, check=how != "killed").stdout.split()

    assert not Path(run("ends")[0]).exists()
    left = Path(run("killed")[0])
    assert (left / "x").is_file()
    if hasattr(os, "fork"):
        made, there = run("fork")
        assert there == "True" and not Path(made).exists()
    assert not left.exists() and not any(tmp_path.iterdir())
