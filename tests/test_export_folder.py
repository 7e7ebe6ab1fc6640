"""Exports appear whole or not at all, whenever their process is stopped or killed, and on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from runtime.files import whole_folder

ROOT = Path(__file__).resolve().parent.parent
MARKER = "marker"
FILES = 30
DEFAULTS = """
import signal
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""  # a test run in the background may have started with some of them ignored
WRITE = f"""{DEFAULTS}
import sys, time
from pathlib import Path
from runtime.files import whole_folder
from runtime.command import command_parser, run_command

def work(args):
    print("ready", flush=True)
    with whole_folder(Path(args.out), "{MARKER}", overwrite=True) as folder:
        for n in range({FILES}):
            (folder / str(n)).write_bytes(bytes(300_000))
            time.sleep(0.005)
        (folder / "{MARKER}").write_text("new")
    print("done", flush=True)

parser = command_parser("x", None, "")
parser.add_argument("out")
sys.exit(run_command(parser, work))
"""
WAIT = f"""
import sys
from pathlib import Path
from runtime.files import whole_folder
from runtime.command import command_parser, run_command

def work(args):
    with whole_folder(Path(args.out), "{MARKER}") as folder:
        (folder / "{MARKER}").write_text("waited")
        print("ready", flush=True)
        sys.stdin.read()

parser = command_parser("x", None, "")
parser.add_argument("out")
sys.exit(run_command(parser, work))
"""


def start(script: str, target: Path) -> subprocess.Popen[str]:
    """A process that is at work on `target`."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script, str(target)], cwd=ROOT, text=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def earlier_export(target: Path) -> None:
    target.mkdir()
    (target / MARKER).write_text("old")


def state(target: Path) -> str:
    """What stands at `target`: "absent", "old" or "new"; fails when it is half of anything."""
    if not target.exists():
        return "absent"
    said = (target / MARKER).read_text()
    names = {path.name for path in target.iterdir()}
    assert names == ({MARKER} if said == "old" else {MARKER, *map(str, range(FILES))})
    return said


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_process_stopped_at_any_moment_leaves_no_half(number: int, replacing: bool, tmp_path: Path) -> None:
    dice = random.Random(int(number) + replacing)
    target = tmp_path / "out"
    stopped = 0
    for _ in range(5):
        shutil.rmtree(target, ignore_errors=True)
        if replacing:
            earlier_export(target)
        process = start(WRITE, target)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.01, 0.15))
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        before = "old" if replacing else "absent"
        found = state(target)
        assert found in (before, "new")
        stopped += found == before
        if number != signal.SIGKILL:
            assert process.returncode == 128 + number
            assert beside(target) == [] and "Traceback" not in errors
    assert stopped >= 3
    start(WRITE, target).communicate(timeout=20)
    assert state(target) == "new" and beside(target) == []


def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path) -> None:
    target = tmp_path / "out"
    process = start(WAIT, target)
    process.kill()
    process.communicate()
    other = tmp_path / ".out.more.addkit-0123abcd.tmp"
    other.mkdir()
    assert len(beside(target)) == 2
    with whole_folder(target, MARKER) as folder:
        (folder / MARKER).write_text("new")
    assert beside(target) == [other.name]  # belongs to another target, whose next export removes it


def test_a_living_process_keeps_its_folder_and_is_refused_a_taken_target(tmp_path: Path) -> None:
    target = tmp_path / "out"
    process = start(WAIT, target)
    with whole_folder(target, MARKER) as folder:
        assert len(beside(target)) == 2
        (folder / MARKER).write_text("mine")
    assert len(beside(target)) == 1
    _, errors = process.communicate("", timeout=20)
    assert process.returncode == 2 and "exists" in errors and len(errors.splitlines()) == 1
    assert (target / MARKER).read_text() == "mine" and beside(target) == []


def test_an_export_that_was_moved_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    earlier_export(tmp_path / ".out.addkit-0123abcd.tmp.old")
    with pytest.raises(UserError, match="exists"), whole_folder(target, MARKER):
        pass
    assert state(target) == "old" and beside(target) == []


@pytest.fixture
def defaults() -> Iterator[None]:
    """The system's own handlers, which a test run in the background may have been started without."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(n, signal.default_int_handler if n == signal.SIGINT else signal.SIG_DFL) for n in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_exception_and_the_handler_comes_back(number: signal.Signals, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop, whole_folder(tmp_path / "out", MARKER):
        os.kill(os.getpid(), number)
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) == signal.SIG_DFL and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == f"stopped by {number.name}\n"


@pytest.mark.usefixtures("defaults")
def test_a_signal_that_a_library_swallows_still_stops_the_export(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), whole_folder(tmp_path / "out", MARKER), contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("defaults")
def test_a_second_signal_does_not_tear_the_cleaning_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree = shutil.rmtree

    def interrupted(path: Path, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(SystemExit), whole_folder(tmp_path / "out", MARKER):
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_own_stays(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with whole_folder(tmp_path / "out", MARKER) as folder:
            os.kill(os.getpid(), signal.SIGTERM)
            (folder / MARKER).write_text("new")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM] and (tmp_path / "out" / MARKER).is_file()


def test_another_thread_writes_too(tmp_path: Path) -> None:
    def write() -> None:
        with whole_folder(tmp_path / "out", MARKER) as folder:
            (folder / MARKER).write_text("new")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert (tmp_path / "out" / MARKER).read_text() == "new"


def test_a_file_larger_than_the_system_allows_is_one_line(tmp_path: Path) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n" + WRITE
    process = start(limited, tmp_path / "out")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and len(errors.splitlines()) == 1
    assert "no space left" in errors and "nothing was written" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(code: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left"), whole_folder(tmp_path / "out", MARKER):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_fails_on_a_full_disk_is_told_by_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 4096))
    with pytest.raises(UserError, match="no space left"), whole_folder(tmp_path / "out", MARKER):
        raise RuntimeError("basic_ios::clear: iostream error")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out", MARKER):
        raise RuntimeError("something else")


def test_a_link_is_followed(tmp_path: Path) -> None:
    earlier_export(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link", MARKER, overwrite=True) as folder:
        (folder / MARKER).write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / MARKER).read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_overwrite_spares_what_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with (
        pytest.raises(UserError, match="not an earlier export"),
        whole_folder(tmp_path / "home", MARKER, overwrite=True),
    ):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"), whole_folder(tmp_path / "file", MARKER, overwrite=True):
        pass
