"""README stays true: its commands and its Python run, its files exist, the first picture is at the top."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.readme_commands import COMMANDS, PYTHON, NotHere, Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """What stands between README's fences of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of a shell block without comments, continued lines as one."""
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line]


IN_README = [command for block in blocks("sh") for command in commands(block)]


def clip(path: Path) -> None:
    """Three frames of a moving square."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv444p"
        for i in range(3):
            pixels = np.full((128, 128, 3), 255, np.uint8)
            pixels[40:80, 20 + 10 * i : 60 + 10 * i] = (200, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def program(path: Path, arguments: str) -> None:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore {arguments} "$@"\n')
    path.chmod(0o755)


def workplace(folder: Path) -> Path:
    """What somebody who reads README has: the programs, two pictures, a clip, a list of prompts."""
    (folder / "bin").mkdir()
    program(folder / "bin" / "python", "")
    program(folder / "bin" / "addkit", "-m addkit")
    for name, colour in (("whale", "navy"), ("guitar", "peru")):
        Image.new("RGB", (128, 128), colour).save(folder / f"{name}.png")
    clip(folder / "clip.mp4")
    (folder / "prompts.csv").write_text('prompt,seed\n"a fox, 3d style",7\n"an owl, flat style",8\n')
    return folder


def run(command: str, how: Run, folder: Path) -> None:
    """Run a command of README in a shell; it must end as the table says and leave what the table says."""
    for words, instead in how.replaced.items():
        assert words in command, f"{command}: there is no {words!r} to replace"
        command = command.replace(words, instead)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    surroundings = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=surroundings, check=False, capture_output=True, text=True
    )
    assert done.returncode == how.code, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for name in how.made:
        assert (folder / name).exists(), f"{command}: {name} is not there"


def to_run(slow: bool) -> list[tuple[str, Run]]:
    """Commands in README's order."""
    found = [(command, COMMANDS.get(command)) for command in IN_README]
    return [(command, how) for command, how in found if isinstance(how, Run) and how.slow == slow]


def test_the_first_thirty_lines_show_a_picture_the_install_and_the_two_commands() -> None:
    top = "\n".join(README.splitlines()[:30])
    for needed in ("![", "pip install .", "python -m runtime", "make demo", "make test"):
        assert needed in top


def test_every_command_is_known_and_every_known_command_is_there() -> None:
    assert set(IN_README) == set(COMMANDS)
    assert len(to_run(slow=False)) >= 4 and len(to_run(slow=True)) >= 6
    for how in COMMANDS.values():
        if isinstance(how, NotHere):
            assert how.why and (ROOT / how.instead).is_file(), how


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_commands_run(tmp_path: Path) -> None:
    folder = workplace(tmp_path)
    for command, how in to_run(slow=False):
        run(command, how, folder)


@pytest.mark.slow
def test_the_commands_from_training_to_a_picture_run(tmp_path: Path) -> None:
    """On sixteen pictures and a tiny teacher."""
    from tests.support.train_fixtures import COLOURS, make_teacher, picture

    folder = workplace(tmp_path)
    make_teacher(folder)
    (folder / "my_pictures").mkdir()
    for colour in COLOURS:
        for shape in ("disc", "square"):
            picture(colour, shape).save(folder / "my_pictures" / f"{colour}-{shape}.png")
            (folder / "my_pictures" / f"{colour}-{shape}.txt").write_text(f"a {colour} {shape}")
    for command, how in to_run(slow=True):
        run(command, how, folder)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []

    def show(image: Image.Image) -> None:
        shown.append(image)

    monkeypatch.setattr(Image.Image, "show", show)
    monkeypatch.chdir(workplace(tmp_path))
    names: dict[str, object] = {}
    whole = "\n".join(blocks("python"))
    for words, instead in PYTHON.items():
        assert words in whole
        whole = whole.replace(words, instead)
    exec(compile(whole, "README.md", "exec"), names)
    assert len(shown) == README.count("image.show()") * 2  # from a stream of two prompts


def test_every_link_and_picture_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
