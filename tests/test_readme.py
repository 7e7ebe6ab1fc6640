"""README stays true: its commands exist, its files exist, the first picture stands at the top."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_thirty_lines_show_a_picture_the_install_and_the_two_commands() -> None:
    top = "\n".join(README.splitlines()[:30])
    for needed in ("![", "pip install .", "python -m runtime", "make demo", "make test"):
        assert needed in top


def test_every_command_is_a_module() -> None:
    modules = set(re.findall(r"python -m ([a-z_.]+)", README)) - {"pip", "venv"}
    assert len(modules) >= 6
    for module in modules:
        assert importlib.util.find_spec(module), module


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_and_picture_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
