"""The path of a user who only wants pictures: a fresh environment, `pip install .`, the first picture."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PROMPT = "a red fox, 3d style"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the package and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    names = (".git", ".venv", "out", "runs", "data", "checkpoints", "build", "*_cache", "node_modules", "golden")
    ignored = shutil.ignore_patterns(*names)
    shutil.copytree(ROOT, source, ignore=ignored, symlinks=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", "--quiet", "--no-compile", str(source))
    return python


def pip(python: Path, *arguments: str) -> str:
    """What this environment's pip prints; it works on `python`'s, which has none of its own."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), *arguments]
    done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return done.stdout


def picture(python: Path, folder: Path, *arguments: str) -> bytes:
    target = folder / "fox.png"
    command = [str(python), "-m", "runtime", PROMPT, "-o", str(target), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


def test_torch_is_absent(python: Path) -> None:
    names = {package["name"].lower() for package in json.loads(pip(python, "list", "--format=json"))}
    assert "addkit" in names and not names & {"torch", "diffusers", "transformers"}


def test_same_seed_same_file_other_seed_other_picture(python: Path, tmp_path: Path) -> None:
    first = picture(python, tmp_path, "--seed", "7")
    assert first == picture(python, tmp_path, "--seed", "7")
    assert first != picture(python, tmp_path, "--seed", "8")
    image = Image.open(tmp_path / "fox.png")
    assert image.size >= (128, 128)
    assert len(set(image.convert("RGB").getdata())) > 100  # a picture, not a blank


def test_the_console_script_draws_the_same_beside_a_users_own_runtime(python: Path, tmp_path: Path) -> None:
    expected = picture(python, tmp_path, "--seed", "7")
    (tmp_path / "runtime.py").write_text("raise SystemExit('executed')\n")
    command = [str(python.parent / "addkit"), "generate", PROMPT, "--seed", "7", "-o", "again.png"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "again.png").read_bytes() == expected, done.stderr


def test_the_console_script_names_the_extra_that_training_needs(python: Path, tmp_path: Path) -> None:
    command = [str(python.parent / "addkit"), "evaluate", "sticker-128"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    expected = 'error: addkit evaluate needs torch, which is not installed: pip install "addkit[train]"\n'
    assert (done.returncode, done.stderr) == (2, expected)
