"""The runtime works where Python lacks what only POSIX or Linux has; all packages share one cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import cache

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
# Modules that other systems lack, blocked before anything is imported.
BLOCKED = """
import os, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "register_at_fork", "fchmod", "fork", "geteuid", "getuid", "O_NONBLOCK", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
"""
IMPORT_AND_DRAW = """
import importlib, pkgutil
import runtime
OPTIONAL = ("ray", "av", "segno", "coremltools", "torch", "diffusers", "optimum", "openvino", "openvino_genai")
names = [module.name for module in pkgutil.walk_packages(runtime.__path__, "runtime.")]
assert len(names) > 60, names
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name in OPTIONAL, (name, error)
from runtime.bench.machine import cores, memory_mb
from runtime.files import locked, take_lock
assert cores() >= 1 and memory_mb("VmHWM") >= 0
with locked("lock", "busy"):
    assert take_lock("lock") is None
from runtime.__main__ import main
assert main(["a fox", "--seed", "7", "--bundle", sys.argv[1], "-o", "fox.png"]) == 0
"""


def run_blocked(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", BLOCKED + code, str(TINY)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("kept", ["off", "cache"])
def test_every_module_is_imported_and_a_picture_drawn_without_posix(kept: str, tmp_path: Path) -> None:
    done = run_blocked(IMPORT_AND_DRAW, tmp_path, ADDKIT_CACHE=kept)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "fox.png"
    made = (tmp_path / "fox.png").read_bytes()
    plain = subprocess.run(
        [sys.executable, "-m", "runtime", "a fox", "--seed", "7", "--bundle", str(TINY), "-o", "plain.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert plain.returncode == 0 and (tmp_path / "plain.png").read_bytes() == made
    assert set(os.listdir(tmp_path)) - {"lock"} == {"fox.png", "plain.png"} | ({"cache"} if kept == "cache" else set())


# ---- the cache folder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "0", "off", "OFF", "Off", "no", "false", "none", " off "])
def test_words_that_mean_no_cache(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, value)
    assert cache.cache_folder() is None
    working = cache.working_folder()
    assert working.is_dir() and working == cache.working_folder() and working.name.startswith("addkit-")


def test_another_folder_and_the_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    assert cache.cache_folder() == cache.working_folder() == tmp_path / "kept"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cache.VARIABLE, "~/kept")
    assert cache.cache_folder() == tmp_path / "kept"


@pytest.mark.parametrize(
    ("platform", "name", "value", "place"),
    [
        ("linux", "XDG_CACHE_HOME", None, "home/.cache/addkit"),
        ("linux", "XDG_CACHE_HOME", "", "home/.cache/addkit"),
        ("linux", "XDG_CACHE_HOME", "relative", "home/.cache/addkit"),
        ("linux", "XDG_CACHE_HOME", "xdg", "xdg/addkit"),
        ("darwin", "XDG_CACHE_HOME", "xdg", "home/Library/Caches/addkit"),
        ("win32", "LOCALAPPDATA", "local", "local/addkit"),
    ],
)
def test_the_systems_own_place(
    platform: str, name: str, value: str | None, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", platform)
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value if value in ("", "relative") else str(tmp_path / value))
    assert cache.cache_folder() == tmp_path / place


def test_what_passes_goes_with_its_process_and_not_with_a_forked_child(tmp_path: Path) -> None:
    code = """
import os, sys
from runtime.cache import working_folder
folder = working_folder()
child = os.fork() if hasattr(os, "fork") else None
if child == 0:
    sys.exit(0)
if child:
    os.waitpid(child, 0)
print(folder.is_dir(), folder)
"""
    env = {**os.environ, "ADDKIT_CACHE": "off", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("True "), done.stderr
    assert os.listdir(tmp_path) == []
