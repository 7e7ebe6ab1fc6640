"""Commands whose standard streams are closed, or that nobody reads: the exit code tells of the work alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runtime.batch.prompts_file import opened
from runtime.command import print_result, tell
from tests.support.tiny import small_checkpoint

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
COMMANDS = {  # and the file that tells that the work is done
    "runtime": (f"runtime fox --seed 1 --bundle {TINY} -o fox.png", "fox.png"),
    "import": ("train.data import pictures --out data --size 16", "data/dataset.json"),
    "batch": (f"runtime.batch prompts.txt --bundle {TINY} --workers 1 --out b", "b/manifest.jsonl"),
    "interpolate": (f"runtime.interpolate a.png b.png --frames 1 --bundle {TINY} --out m", "m/interpolation.json"),
}
MISTAKE = "train.data import nowhere --out data"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for name in ("a.png", "b.png", "pictures/c.png", "pictures/d.png"):
        Image.radial_gradient("L").resize((40, 32)).convert("RGB").save(name)
    Path("prompts.txt").write_text("a fox\na pizza\n")
    Path("pictures/c.txt").write_text("a square")  # d.png is left out, and told of


def deaf() -> int:
    """The end to write to of a pipe without a reader."""
    read, write = os.pipe()
    os.close(read)
    return write


def run(line: str, streams: str) -> int:
    command = [sys.executable, "-m", *line.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if streams == "closed":
        whole = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        return subprocess.run(whole, env=environment, check=False, timeout=300).returncode
    out = deaf()
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    os.close(out)
    return done.returncode


@pytest.mark.parametrize("streams", ["closed", "without a reader"])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_work_is_done(name: str, streams: str) -> None:
    line, made = COMMANDS[name]
    assert run(line, streams) == 0
    assert Path(made).stat().st_size > 0
    for path in Path().rglob("*.json*"):  # no message of a library went into a file of ours
        assert path.read_bytes()[:1] in (b"{", b""), path


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["closed", "without a reader"])
def test_training_and_export_are_done(streams: str) -> None:
    assert run("train.data import pictures --out data --size 64", streams) == 0
    toy = "--latent-channels 4 --decoder-width 8 --max-steps 2 --batch 1 --crop 4 --eval-every 2"
    assert run(f"train.autoencoder --data data --out vae {toy}", streams) == 0
    assert Path("vae/vae/config.json").is_file()
    for format, made in (("onnx", "unet/model.onnx"), ("coreml", "*unet*.mlpackage/Manifest.json")):
        assert run(f"export.{format} {small_checkpoint()} --out {format}", streams) == 0
        assert list(Path(format).glob(made))


@pytest.mark.parametrize("streams", ["closed", "without a reader"])
def test_a_mistake_stays_one(streams: str) -> None:
    assert run(MISTAKE, streams) == 2


class Broken:
    """A stream whose reader leaves in the middle."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file"), OSError(5, "I/O")])
def test_a_line_that_nobody_reads(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken(error))
    tell("a line")
    monkeypatch.setattr(sys, "stderr", None)
    tell("a line")
    monkeypatch.setattr(sys, "stdout", None)
    print_result("a result")


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="cannot read standard input: it is closed"), opened("-"):
        pass


def test_a_batchs_last_line_counts(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from runtime.batch import __main__ as batch

    counts = {"rows": 1200, "made": 1000, "there": 150, "failed": 50, "warnings": [], "manifest": "out/manifest.jsonl"}
    monkeypatch.setattr(batch, "start", lambda args: dict(counts))
    assert batch.main(["p.txt", "--out", "out"]) == 1
    out, err = capsys.readouterr()
    assert err == "1,200 rows read, 1,000 images made, 150 there before, 50 failed\n"
    assert out == "out/manifest.jsonl\n"
