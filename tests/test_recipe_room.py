"""The shipped model's recipe stays in its rooms: nothing else imports them or mentions what it draws."""

from __future__ import annotations

import re

import pytest

from scripts.rooms import MODULES, arrows

ROOMS = ("train.sticker.", "train.world.")
DOORS = {
    "train.autoencoder",
    "train.data.__main__",
    "train.evaluate.run",
    "train.pairs",
    "train.presets",
    "train.run.build",
    "train.teacher",
}  # which may import it
WORDS = re.compile(r"emoji|wordnet|(3d|flat|cartoon) style|fluent-(3d|flat)|noto\b", re.IGNORECASE)
OUTSIDE = sorted(name for name in MODULES if not f"{name}.".startswith(ROOMS))


def test_only_the_doors_import_the_recipe() -> None:
    found = {name for name, targets in arrows().items() if any(f"{end}.".startswith(ROOMS) for end in targets)}
    assert {name for name in found if not f"{name}.".startswith(ROOMS)} <= DOORS
    assert "train.data.__main__" in found  # the walk sees imports inside functions


@pytest.mark.parametrize("package", ["train", "export", "runtime"])
def test_no_code_and_no_text_outside_speaks_of_its_pictures(package: str) -> None:
    modules = [name for name in OUTSIDE if name.partition(".")[0] == package]
    assert len(modules) > 30
    lines = {
        f"{name}:{number}": line.strip()
        for name in modules
        for number, line in enumerate(MODULES[name].read_text(encoding="utf-8").splitlines(), 1)
        if WORDS.search(line)
    }
    assert lines == {}


def test_the_words_are_those_of_the_recipe() -> None:
    own = "\n".join(MODULES[name].read_text(encoding="utf-8") for name in set(MODULES) - set(OUTSIDE))
    for word in ("emoji", "WordNet", "3d style", "flat style", "cartoon style", "fluent-3d", '"noto"'):
        assert word in own and WORDS.search(word)
