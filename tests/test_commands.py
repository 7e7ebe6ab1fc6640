"""Every command: help with examples; every mistake is one line on stderr and exit code 2, and nothing is written."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.support.mistakes import refused

ROOT = Path(__file__).parent.parent
PACKAGES = ("runtime", "train", "export", "scripts")
# Started by commands, not by people; scripts without arguments.
INTERNAL = {"runtime.bench.worker", "export.parity.worker", "scripts.fuzz_worker"}
# They import diffusers at once, whose packages print a line of their own.
TOOLS = {"scripts.matrix", "scripts.zoo"}
PLAIN = {"scripts.demo", "scripts.icons", "scripts.mobilenet_weights", "scripts.rooms"}


@dataclass(frozen=True)
class Command:
    """The mistakes that a command may be given; the files that they name are those of `workplace`."""

    bad: str  # an impossible value
    missing: str = ""  # a missing input; "" where a command reads none
    unwritable: str = ""  # an output inside a file; "" where a command writes none
    alone: bool = False  # whether it works without arguments


BUNDLE = ROOT / "runtime" / "bundles" / "sticker-128"
PARTS = "--data data --vae vae --text text"
COMMANDS = {
    "runtime": Command("fox --seed x", "fox --bundle nowhere", "fox -o file/x.png"),
    "runtime.batch": Command("p.txt --out o --seed x", "nowhere.txt --out o", "p.txt --out file/x"),
    "runtime.interpolate": Command("a.png b.png --out o --fps x", "a.png c.png --out o", "a.png b.png --out file/x"),
    "runtime.bench": Command("--turns 0", "--bundle nowhere", alone=True),
    "runtime.provenance": Command("a.png --turns 0", "nowhere.png"),
    "runtime.detect": Command("a.png --no-such x", "nowhere.png"),
    "runtime.demo": Command("--port 70000", "--directory nowhere", alone=True),
    "train": Command("--preset demo batch=x", "--resume nowhere", "--preset smoke run_dir=file/x"),
    "train.ablation": Command("--out o --rows no", "--out o --data nowhere", "--out file/x --data data"),
    "train.autoencoder": Command("--data data --out o --batch x", "--data nowhere --out o", "--data data --out file/x"),
    "train.bench": Command("--turns 0", "--once data=nowhere", alone=True),
    "train.data": Command("import pictures --out o --size x", "import nowhere --out o", "import pictures --out file/x"),
    "train.doctor": Command("run --plot", "nowhere", "run --plot file/x.png"),
    "train.evaluate": Command("sticker-128 --steps 0", "nowhere", "sticker-128 --out file/x.json"),
    "train.pairs": Command(
        "--teacher t --data data --out o --n 0",
        "--teacher nowhere --data data --out o",
        "--teacher t --data data --out file/x",
    ),
    "train.random_teacher": Command("huge --out o", "", "tiny --out file/x"),
    "train.sticker.card": Command(
        "sticker-128 --out o --seed x", "sticker-128 --data nowhere --out o", "sticker-128 --out file/x"
    ),
    "train.sticker.everyday": Command(
        "sticker-128 --text-embedder x", "nowhere", "sticker-128 --out file/x.json", alone=True
    ),
    "train.sticker.release": Command(
        "--stage practice --minutes x", "--stage practice --data nowhere --out o", "--pieces file/x --data data"
    ),
    "train.sticker.prompts": Command("--data", "--data nowhere", alone=True),
    "train.teacher": Command(f"{PARTS} --out o --batch 0", f"{PARTS} --out o", f"{PARTS} --out file/x"),
    "train.text_encoder": Command("--data data --out o --lr x", "--data nowhere --out o", "--data data --out file/x"),
    "export.bench": Command("bundle --turns 0", "nowhere"),
    "export.coreml": Command("sticker-128 --out o --quantize-nbits 5", "nowhere --out o", "sticker-128 --out file/x"),
    "export.mil": Command("package --seed x", "nowhere", "package --out file/x.npz"),
    "export.onnx": Command("sticker-128 --out o --precision int2", "nowhere --out o", "sticker-128 --out file/x"),
    "export.openvino": Command("sticker-128 --out o --precision int2", "nowhere --out o", "sticker-128 --out file/x"),
    "export.parity": Command(
        "sticker-128 bundle --strip x.gif", f"nowhere {BUNDLE}", "sticker-128 b --strip file/x.png"
    ),
    "export.sign": Command("bundle --key", "nowhere --key file"),
    "scripts.fuzz_bundle": Command("--cases x", alone=True),
    "scripts.golden": Command("--check=x", alone=True),
    "scripts.interpolation": Command("--bundle", "--bundle nowhere --out pictures", "--out file/x", alone=True),
    "scripts.make_demo_shard": Command("data --unknown", "nowhere"),
    "scripts.make_demo_world": Command("data --unknown", "nowhere"),
    "scripts.release": Command("a b", "nowhere nowhere nowhere"),
    "scripts.soak": Command("--pictures x", "--bundle nowhere", alone=True),
    "scripts.watermark_rates": Command("--out o --pictures x", "--out o --photos nowhere", "--out file/x"),
    "scripts.world_sheets": Command("data --out o --count x", "nowhere --out o"),
}


def guarded() -> set[str]:
    """Every module of ours that may be started with `python -m`."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            if any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test) for node in body):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.add(".".join(parts).removesuffix(".__main__"))
    return found


def run(name: str, *arguments: str) -> int:
    """The exit code of a command in this process."""
    code: int = main_of(name)(list(arguments))
    return code


def main_of(name: str):
    """A command's `main`."""
    room = (ROOT / name.replace(".", "/") / "__main__.py").is_file()
    return importlib.import_module(f"{name}.__main__" if room else name).main


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a few inputs in it that can be read."""
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "p.txt").write_text("a fox\n")
    (tmp_path / "pictures").mkdir()
    for path in ("a.png", "b.png", "pictures/c.png", "pictures/d.png"):
        Image.new("RGB", (128, 128), "red").save(tmp_path / path)
    for path in ("pictures/c.txt", "pictures/d.txt"):
        (tmp_path / path).write_text("a square")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_holds_every_command() -> None:
    assert guarded() - INTERNAL - PLAIN - TOOLS == set(COMMANDS)
    assert guarded() >= INTERNAL | PLAIN | TOOLS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_the_common_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(f"usage: python -m {name} ")
    assert "--debug" in out and f"examples:\n  python -m {name}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_one_line_and_nothing_is_written(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, before = COMMANDS[name], sorted(workplace.rglob("*"))
    main = main_of(name)
    if not command.alone:
        assert "the following arguments are required" in (line := refused(capsys, main)) or "one of" in line
    unknown = refused(capsys, main, *command.bad.split(), "--no-such-option")
    assert "--no-such-option" in unknown or "error" not in unknown
    for arguments in filter(None, (command.bad, command.missing, command.unwritable)):
        line = refused(capsys, main, *arguments.split())
        assert "Traceback" not in line and "[Errno" not in line
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.missing])
def test_what_is_missing_is_named(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, main_of(name), *COMMANDS[name].missing.split())
    named = [part for part in COMMANDS[name].missing.split() if "nowhere" in part or part in ("c.png", "data", "vae")]
    assert any(part.removeprefix("data=") in line for part in named), line


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.unwritable])
def test_where_nothing_can_be_written_is_named(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "file" in refused(capsys, main_of(name), *COMMANDS[name].unwritable.split())


def test_debug_shows_where(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train.doctor", "nowhere", "--debug") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Traceback") and "UserError" in err


@pytest.mark.parametrize("command", ["train.data --debug import nowhere --out o", "runtime fox --bundle nowhere"])
def test_as_a_process(command: str, tmp_path: Path) -> None:
    """With everything that an interpreter prints of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Traceback") if "--debug" in command else len(lines) == 1, done.stderr


def test_results_are_alone_on_stdout(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train.random_teacher", "tiny", "--out", "teacher", "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == "teacher"
