"""The public face: the package `addkit`, its console script, and the types that checkers see."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import addkit
import runtime
from addkit import shadow
from addkit.command import VERBS, main

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
RUNTIME = ("generate", "batch", "detect", "interpolate", "bench", "demo")  # verbs that need no extra


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in a user's folder, where Python looks first."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_names_are_the_runtimes() -> None:
    assert sorted(addkit.__all__) == sorted(runtime.__all__) and set(addkit.__all__) <= set(dir(addkit))
    for name in runtime.__all__:
        assert getattr(addkit, name) is getattr(runtime, name), name
    with pytest.raises(AttributeError, match="no attribute 'draw'"):
        addkit.draw  # noqa: B018


def test_importing_it_is_cheap(tmp_path: Path) -> None:
    code = "import sys, addkit; print([x for x in ('numpy', 'PIL', 'onnxruntime', 'runtime') if x in sys.modules])"
    done = python("-c", code, folder=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("hiding", ["runtime.py", "runtime/__init__.py"])
def test_a_users_own_runtime_is_named_and_not_run(tmp_path: Path, hiding: str) -> None:
    path = tmp_path / hiding
    path.parent.mkdir(exist_ok=True)
    path.write_text("print('executed')\n")
    done = python("-c", "import addkit; print('imported'); addkit.generate('a fox')", folder=tmp_path)
    assert done.returncode == 1 and done.stdout == "imported\n"
    says = f"{hiding} hides addkit's own package runtime: rename it"
    assert says in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("ImportError: ")
    command = python("-m", "addkit", "generate", "a fox", folder=tmp_path)
    assert command.returncode == 2 and command.stdout == ""
    (line,) = command.stderr.splitlines()
    assert line.startswith("error: ") and says in line


def test_a_users_own_runtime_that_is_loaded_already_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = type(sys)("runtime")
    by_hand.__spec__ = None
    monkeypatch.setitem(sys.modules, "runtime", by_hand)
    with pytest.raises(ImportError, match="another module hides addkit's own package runtime"):
        addkit.generate  # noqa: B018


def test_a_folder_without_code_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    done = python("-c", "import addkit; print(addkit.generate.__module__)", folder=tmp_path)
    assert done.stdout == "runtime.pipeline\n", done.stderr


def test_a_users_own_train_hides_the_training_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('executed')\n")
    done = python("-m", "addkit", "train", "--preset", "smoke", folder=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == "" and "train.py hides addkit's own package train" in line
    drawn = python("-m", "addkit", "generate", "a fox", "--seed", "7", "--bundle", str(TINY), folder=tmp_path)
    assert drawn.stdout.strip() == "a-fox-7.png" and (tmp_path / "a-fox-7.png").is_file(), drawn.stderr


def test_a_package_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="package train is missing beside .*: install addkit again"):
        shadow.check_package("train")


# The console script


def test_help_has_a_line_for_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and main(["-h"]) == 0
    said, told = capsys.readouterr()
    assert told == "" and all(f"\n  {verb} " in said and each.says in said for verb, each in VERBS.items())
    assert "examples:\n  addkit generate " in said and max(map(len, said.splitlines())) <= 100
    assert main(["export", "--help"]) == 0 and capsys.readouterr().out == said[: len(said) // 2]
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"addkit {runtime.__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say what to do: choose one of generate, batch, "),
        (["generat"], "there is no command 'generat': did you mean addkit generate?"),
        (["text_encoder"], "did you mean addkit text-encoder?"),
        (["export"], "say what to do: choose one of export onnx, export coreml, export openvino, "),
        (["export", "onxn", "x"], "there is no command 'export onxn': did you mean addkit export onnx?"),
        (["coreml"], "there is no command 'coreml': did you mean addkit export coreml?"),
        (["zzz"], "there is no command 'zzz': choose one of generate, batch, "),
        (["--bundle", "x"], "there is no command '--bundle': "),
        (["--help", "x"], "there is no command '--help': "),
    ],
)
def test_what_is_no_command_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said, told = capsys.readouterr()
    assert said == "" and told.count("\n") == 1 and told.startswith("error: ") and says in told
    assert told.endswith("(see addkit --help)\n")


def test_mistakes_and_help_name_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 2
    assert capsys.readouterr().err.endswith("PROMPT (see addkit generate --help)\n")
    assert main(["generate", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: addkit generate ")
    assert '\n  addkit generate "a red fox" --seed 7 -o fox.png\n' in said
    assert "python -m runtime " not in said
    assert importlib.import_module("runtime.__main__").main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m runtime ")


def test_a_verb_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["addkit", "generate", "a fox", "--seed", "7", "--bundle", str(TINY)])
    assert main() == 0 and capsys.readouterr().out == "a-fox-7.png\n"
    expected = addkit.generate("a fox", seed=7, bundle=TINY)
    assert Image.open("a-fox-7.png").tobytes() == expected.tobytes()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_command(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    said, told = capsys.readouterr()
    assert said.startswith(f"usage: addkit {verb} ") and f"\n  addkit {verb} " in said and told == ""
    assert main([*verb.split(), "--no-such-option"]) == 2
    said, told = capsys.readouterr()
    assert said == "" and told.count("\n") == 1 and told.endswith(f"(see addkit {verb} --help)\n")
    own = {"provenance": "provenance", "export sign": "signing"} | dict.fromkeys(RUNTIME, "")
    assert VERBS[verb].extra == own.get(verb, VERBS[verb].module.partition(".")[0])


@pytest.mark.parametrize(
    ("verb", "words", "extra"),
    [
        ("train", ["--preset", "smoke"], "train"),
        ("evaluate", ["sticker-128"], "train"),
        ("export onnx", ["sticker-128", "--out", "x"], "export"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, verb: str, words: list[str], extra: str) -> None:
    run = f"from addkit.command import main; sys.exit(main({[*verb.split(), *words]!r}))"
    code = f"import sys; sys.modules['torch'] = None; {run}"
    done = python("-c", code, folder=tmp_path)
    expected = f'error: addkit {verb} needs torch, which is not installed: pip install "addkit[{extra}]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


# Types: mypy, which `make test` runs over the tests, checks assert_type.


def test_types_of_a_pipes_results() -> None:
    with addkit.load(TINY) as pipe:
        images = assert_type(pipe("a fox", seed=7), addkit.Images)
        assert assert_type(images.images[0], Image.Image).size == (40, 32)
        assert assert_type(pipe(["a fox"], output_type="pil").seeds, list[int])
        values = assert_type(pipe("a fox", output_type="np"), npt.NDArray[np.float32])
        code = assert_type(pipe("a fox", output_type="latent"), npt.NDArray[np.float32])
        assert values.dtype == code.dtype == np.float32 and isinstance(images, addkit.Images)
        for one in pipe.run("a fox", seed=np.array([7])):
            assert_type((one.image, one.seed, one.prompt), tuple[Image.Image, int, str])
        with pytest.raises(ValueError, match="output_type must be"):
            pipe("a fox", output_type="pt")  # type: ignore[call-overload]


def test_types_of_generates_results() -> None:
    draw: Any = {"bundle": TINY, "seed": 7}
    image = assert_type(addkit.generate("a fox", bundle=TINY, seed=7), Image.Image)
    several = assert_type(addkit.generate(["a fox", "a cat"], bundle=TINY, seed=range(2)), addkit.Images)
    either = assert_type(addkit.generate("a fox", bundle=TINY, num_images_per_prompt=2), Image.Image | addkit.Images)
    values = assert_type(addkit.generate("a fox", bundle=TINY, output_type="np"), npt.NDArray[np.float32])
    latent = assert_type(addkit.generate(["a"], bundle=TINY, output_type="latent"), npt.NDArray[np.float32])
    assert image.size == (40, 32) and len(several) == 2 and isinstance(either, addkit.Images)
    assert values.shape == (32, 40, 3) and latent.shape == (1, 5, 4, 5)
    assert addkit.generate("a fox", **draw).tobytes() == image.tobytes()
    assert inspect.signature(addkit.load) == inspect.signature(runtime.load)
